"""`nlakit explain`: reads a text token by token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nlakit.engines.base import MAX_NEW_TOKENS, sampling_for
from nlakit.errors import InputError

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import reading_progress
from .requests import AS_GIVEN, ChatOptions, read_request
from .results import Format, Json, chosen_format, give_reading
from .serve import read_secret

if TYPE_CHECKING:
    from nlakit.engines.remote import RemotePair

RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")


def explain(
    text: str | None = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    tokens: Annotated[bool, Parameter(negative=())] = False,
    last: int | None = None,
    positions: str | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    min_confidence: float | None = None,
    server: str | None = None,
    secret_file: Annotated[Path | None, Parameter(negative=())] = None,
    lens: Literal["logit", "jacobian"] | None = None,
    lens_file: Annotated[Path | None, Parameter(negative=())] = None,
    format: Format | None = None,
    output: Annotated[Path | None, Parameter(negative=())] = None,
    json: Json = False,
    chat: ChatOptions = AS_GIVEN,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Read a text or a conversation with an NLA, token by token.

    Parameters
    ----------
    text
        The text, or messages as JSON; "-" or nothing reads standard input.
    file
        Read the text from this file.
    tokens
        Read every token, which is the default.
    last
        Explain the last N tokens.
    positions
        Read only these tokens, such as 0,4-7; --positions=-2,-1 counts from the end.
    samples
        Explanations per token; the best by fidelity is shown first.
    temperature
        0 is greedy decoding; by default 0 for one sample and 1 for several.
    max_new_tokens
        Longest answer, in tokens.
    seed
        Decides what is sampled above temperature 0.
    min_confidence
        Hide claims whose chance of being true, by the NLA's own calibrator, is below this.
    server
        Instead of an NLA here: address of a server, such as http://127.0.0.1:8000.
    secret_file
        File with the secret that the server asks for.
    lens
        Instead of the NLA: the likeliest next tokens after every block of its target.
    lens_file
        Of the Jacobian lens; by default the one that `nlakit lens fit` has made.
    format
        By default table, or as the name of --output ends.
    output
        Write into this file, which takes the place of one that is there; print nothing.
    devices
        Where models run.
    """
    if tokens and (last is not None or positions is not None):
        raise InputError("--tokens reads every token. Leave out --last and --positions, or it.")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"--min-confidence lies between 0 and 1, found {min_confidence}.")
    places = None if positions is None else parse_positions(positions)
    sampling_for(samples, temperature, max_new_tokens, seed)
    chosen = chosen_format(format, json, output)
    if lens is not None:
        if (server, output) != (None, None) or chosen not in ("table", "json"):
            raise InputError(
                "--lens runs the target here and prints a table or JSON. It cannot be combined "
                "with --server, --output or another --format."
            )
        from .lens import explain_with_lens

        given = (text, file, chat)
        explain_with_lens(lens, lens_file, given, places, last, pair, devices, chosen == "json")
        return
    request = read_request(text, file, chat)
    here = server is None
    # What can be refused has been; loading the models takes seconds.
    reader = pair.load(devices) if here else connect(server, secret_file, pair, devices)
    with reading_progress() as on_text:
        reading = reader.explain(
            request.content,
            positions=places,
            samples=samples,
            temperature=temperature,
            last=last,
            max_new_tokens=max_new_tokens,
            seed=seed,
            on_text=on_text,
            **request.fields,
        )
    if min_confidence is not None:
        reading = reading.above(min_confidence)
    give_reading(reading, chosen, output)


def connect(
    server: str, secret_file: Path | None, pair: PairOptions, devices: DeviceOptions
) -> RemotePair:
    """The pair of a server. Raises `InputError` where one of this machine was named too."""
    if (pair, devices) != (BUNDLED, AUTOMATIC):
        raise InputError(
            "--server has its own NLA. Leave out --nla, its parts, --device and --dtype, or it."
        )
    from nlakit.engines.remote import RemotePair

    return RemotePair(server, None if secret_file is None else read_secret(secret_file))


def parse_positions(text: str) -> list[int]:
    """`-1,0,4-7` as [-1, 0, 4, 5, 6, 7]. Raises InputError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        if match is None:
            raise InputError(f"--positions {text!r}: expected numbers and ranges, such as 0,4-7.")
        start = int(match[1])
        end = int(match[2] or start)
        if end < start or (match[2] and start < 0) or end - start > 1_000_000:
            raise InputError(f"--positions {text!r}: {part.strip()!r} is not a range upwards.")
        found.extend(range(start, end + 1))
    return found
