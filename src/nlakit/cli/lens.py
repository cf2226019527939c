"""`nlakit lens fit`, and `nlakit explain --lens`: next tokens by block, with no NLA."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.data.extraction import target_sha256
from nlakit.errors import InputError
from nlakit.evals.lens import LensReading, read_lens
from nlakit.models.lens import FIRST_SOURCE, Lens, fit_jacobian, load_lens
from nlakit.models.target import Target
from nlakit.registry import BUNDLED
from nlakit.worlds.storyworld.sae import CORPUS_NAME

from .devices import AUTOMATIC, DeviceOptions
from .pairs import PairOptions
from .progress import counting_progress
from .requests import ChatOptions, read_request
from .saes import load_target, texts_of

LENSES = Path("runs") / "lenses"
LensChoice = Literal["logit", "jacobian"]


def fit(
    *,
    model: str = BUNDLED,
    corpus: str = CORPUS_NAME,
    documents: int = 200,
    seed: int = 1,
    first_source: int = FIRST_SOURCE,
    output: Annotated[Path | None, Parameter(negative=())] = None,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Fit the Jacobian lens of a model.

    Parameters
    ----------
    model
        bundled, a model directory, or a name on the hub.
    corpus
        storyworld, or a corpus as `nlakit extract` takes it.
    documents
        Texts at most; fitting stops when more of them change nothing.
    seed
        Decides which, in the storyworld.
    first_source
        Positions at the start of a text that are left out.
    output
        File; by default runs/lenses/HASH.safetensors, where --lens finds it.
    """
    target = load_target(model, 0, devices)
    passages = islice(texts_of(corpus, seed).passages(target, "train"), documents)
    ids = [each.encoded.ids for each in passages]
    with counting_progress("fitting") as progress:
        lens = fit_jacobian(target, ids, first_source=first_source, progress=progress)
    path = output or default_path(target)
    lens.save(path)
    print(path)


def default_path(target: Target) -> Path:
    """Where the lens of a target is looked for."""
    return LENSES / f"{target_sha256(target)[:16]}.safetensors"


def lens_of(choice: LensChoice, path: Path | None, target: Target) -> Lens:
    """The lens that was asked for. Raises `InputError` where it was not fitted."""
    if choice == "logit":
        if path is not None:
            raise InputError("--lens-file is of the Jacobian lens; the logit lens needs none.")
        return Lens()
    found = path or default_path(target)
    if not found.exists():
        raise InputError(
            f"There is no Jacobian lens at {found}. Fit one with `nlakit lens fit --model MODEL`, "
            "or give its file by --lens-file."
        )
    return load_lens(found, target.d_model)


def explain_with_lens(
    choice: LensChoice,
    path: Path | None,
    given: tuple[str | None, Path | None, ChatOptions],
    positions: Sequence[int] | None,
    last: int | None,
    pair: PairOptions,
    devices: DeviceOptions,
    json: bool,
) -> None:
    """What `nlakit explain --lens` does; `given` is what `read_request` takes."""
    request = read_request(*given)
    loaded = pair.load(devices)
    encoded = loaded.encode(request.content, **request.fields)
    lens = lens_of(choice, path, loaded.target)
    places = list(range(len(encoded.ids))) if positions is None else list(positions)
    places = [place % len(encoded.ids) for place in places][-(last or len(encoded.ids)) :]
    reading = read_lens(lens, loaded.target, encoded, places)
    if json:
        sys.stdout.write(reading.model_dump_json(indent=2) + "\n")
    else:
        Console().print(lens_table(reading))


def lens_table(reading: LensReading) -> Table:
    """Likeliest next token by block, for a terminal."""
    table = Table(title=f"{reading.lens} lens: the likeliest next token after each block")
    table.add_column("token")
    for layer in reading.tokens[0].layers:
        table.add_column(str(layer.layer))
    for token in reading.tokens:
        cells = [
            Text(f"{each.top[0].token!r} {each.top[0].probability:.2f}") for each in token.layers
        ]
        table.add_row(Text(repr(token.token)), *cells)
    return table
