"""`nlakit scan`: many transcripts into a project of readings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.audit.positions import Selection
from nlakit.audit.project import Project, ProjectCard
from nlakit.audit.scan import Scanner, ScanResult
from nlakit.console import notice, tell
from nlakit.data.extraction import target_sha256
from nlakit.engines.base import Sampling, sampling_for
from nlakit.errors import InputError
from nlakit.pair.bulk import dtype_name, weights_sha256
from nlakit.pair.load import load_source
from nlakit.pair.pair import Pair
from nlakit.pair.source import PairSource

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import counting_progress
from .results import write_json

MAX_NEW_TOKENS = 120


@Parameter(name="*")
@dataclass(frozen=True)
class SelectionOptions:
    """Which tokens are read; by default the last one of each turn."""

    every: int | None = None
    """Each K-th token of what is said."""

    last_of_turns: Annotated[bool, Parameter(negative=())] = False
    """The last token of what each message says."""

    random: int | None = None
    """N random tokens of each transcript."""

    seed: int = 0
    """Decides which tokens are random."""

    tool_calls: Annotated[bool, Parameter(negative=())] = False
    """The token before each tool call, and its first and last token."""

    thinking: Annotated[bool, Parameter(negative=())] = False
    """Ends of sentences in thinking sections."""

    around: str | None = None
    """A regular expression: the tokens of its matches, and two on either side."""

    role: tuple[str, ...] = ()
    """Only messages of this role; may be given several times."""

    def selection(self) -> Selection:
        """Raises `InputError` for numbers that are too small."""
        for name, value in (("--every", self.every), ("--random", self.random)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, found {value}.")
        return Selection(
            every=self.every,
            last_of_turns=self.last_of_turns,
            random=self.random,
            seed=self.seed,
            tool_calls=self.tool_calls,
            thinking=self.thinking,
            around=self.around,
            roles=self.role,
        )


LAST_OF_TURNS = SelectionOptions()


def scan(
    project: Path,
    /,
    *files: str,
    max_positions: int | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    confidence: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    where: SelectionOptions = LAST_OF_TURNS,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Read many transcripts into a project. What was read before is not read again.

    A killed scan goes on: run the same command.

    Parameters
    ----------
    project
        Directory of the project, new or of the same pair.
    files
        Transcripts: files or folders of any format that corpora have (docs/data.md).
    max_positions
        Read at most N positions; run again to go on.
    samples
        Explanations per position.
    temperature
        0 is greedy decoding; by default 0 for one sample and 1 for several.
    max_new_tokens
        Longest explanation, in tokens.
    confidence
        Give each explanation the mean confidence of its claims; takes longer.
    dry_run
        Say how many positions there are and how long they will take; read nothing.
    json
        Print one JSON object.
    where
        Which tokens are read.
    devices
        Where models run.
    """
    if max_positions is not None and max_positions < 1:
        raise InputError(f"--max-positions must be 1 or more, found {max_positions}.")
    if not files:
        raise InputError("No transcripts were named. Give files or folders after the project.")
    sampling = sampling_for(samples, temperature, max_new_tokens, 0)
    source, selection = pair.source(), where.selection()
    place = devices.placement()
    loaded = load_source(source, place)
    card = project_card(loaded, source, sampling, dtype_name(place), confidence)
    scanner = Scanner(
        Project.create(project, card),
        loaded,
        sampling,
        budget=max_positions,
        confidence=confidence,
        tell=lambda words: notice(words, "dim"),
    )
    expected = scanner.estimate(files, selection)
    scanner.tell(
        f"{expected.positions} positions of {expected.transcripts} transcripts: about "
        f"{expected.seconds:.0f} s on this machine."
    )
    if dry_run:
        if json:
            write_json(expected._asdict())
        return
    with counting_progress("positions") as progress:
        scanner.progress = progress
        result = scanner.scan(files, selection)
    if json:
        write_json(result._asdict())
    else:
        tell(_told(result, project))


def project_card(
    pair: Pair, source: PairSource, sampling: Sampling, dtype: str, confidence: bool = False
) -> ProjectCard:
    """What all readings of a project have in common. Raises `InputError` without a calibrator."""
    if confidence and pair.confidence is None:
        raise InputError(
            f"The pair {pair.name!r} has no calibrator.json, so its claims have no confidence. "
            "Leave out --confidence, or make one: nlakit eval confidence --write."
        )
    return ProjectCard(
        nla=pair.name,
        nla_sha256=weights_sha256(source),
        target_sha256=target_sha256(pair.target),
        layer=pair.card.layer,
        d_model=pair.card.d_model,
        baseline=pair.card.baseline,
        dtype=dtype,
        samples=sampling.samples,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
        confidence=confidence,
    )


def _told(result: ScanResult, project: Path) -> str:
    lines = [
        f"{result.transcripts} transcripts, {result.positions} positions read in "
        f"{result.seconds:.0f} s: {project}"
    ]
    if result.known:
        lines.append(f"{result.known} transcripts had been read before.")
    if result.left:
        lines.append(f"{result.left} positions are past --max-positions. Run it again to go on.")
    if result.truncated:
        lines.append(f"{result.truncated} are longer than the target's context, and were cut.")
    if result.refused:
        lines.append(f"{result.refused} rows cannot be read. The first: {result.reasons[0]}")
    return "\n".join(lines)
