"""`nlakit compare-models`: the same transcripts through two models."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.audit.compare import Comparison, compare
from nlakit.audit.embed import EmbedderName, embedder
from nlakit.audit.positions import Selection
from nlakit.audit.project import Project
from nlakit.audit.scan import Scanner
from nlakit.console import notice, tell
from nlakit.engines.base import Sampling, sampling_for
from nlakit.errors import InputError
from nlakit.models.hub import locate
from nlakit.models.placement import Placement
from nlakit.pair.bulk import dtype_name
from nlakit.pair.load import load_source
from nlakit.pair.pair import Pair
from nlakit.pair.source import PairSource, find_pair
from nlakit.registry import resolve_pair

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import counting_progress
from .results import write_json
from .scan import LAST_OF_TURNS, MAX_NEW_TOKENS, SelectionOptions, project_card


def compare_models(
    first: str,
    second: str,
    /,
    *files: str,
    output: Path | None = None,
    max_positions: int | None = None,
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    limit: int = 20,
    json: Annotated[bool, Parameter(negative=())] = False,
    where: SelectionOptions = LAST_OF_TURNS,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Read the same transcripts with two models: themes, positions and directions that differ.

    Parameters
    ----------
    first
        An NLA (name or directory); or the directory of a model, read by the pair of --nla or --av.
    second
        The one that it is compared with.
    files
        Transcripts: files or folders of any format that corpora have.
    output
        Keep both projects here, so that a killed run goes on; by default they are not kept.
    max_positions
        Read at most N positions of each.
    embedder_name
        minilm, wordllama, words, or the best that is installed.
    limit
        At most N themes and positions.
    json
        Print one JSON object.
    where
        Which tokens are read.
    devices
        Where models run.
    """
    if not files:
        raise InputError("No transcripts were named. Give files or folders after the two models.")
    place, by = devices.placement(), embedder(embedder_name)
    sources = [side(name, pair) for name in (first, second)]
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) if output is None else output
        pairs = [load_source(source, place) for source in sources]
        a, b = (
            _scanned(home / name, loaded, source, files, where.selection(), place, max_positions)
            for name, loaded, source in zip("ab", pairs, sources, strict=True)
        )
        found = compare(a, b, by, reader=pairs[0], limit=limit)
    if json:
        told = {"a": first, "b": second, **found.to_json()}
        write_json(told)
    else:
        tell(_told(found, first, second))


def side(name: str, pair: PairOptions) -> PairSource:
    """An NLA of a name, or the chosen pair over another target."""
    try:
        resolve_pair(name)
    except InputError:
        return replace(pair.source(), target=locate(name), name=name)
    return find_pair(name)


def _scanned(
    directory: Path,
    pair: Pair,
    source: PairSource,
    files: Sequence[str],
    selection: Selection,
    place: Placement,
    budget: int | None,
) -> Project:
    sampling: Sampling = sampling_for(1, None, MAX_NEW_TOKENS, 0)
    card = project_card(pair, source, sampling, dtype_name(place))
    project = Project.create(directory, card)
    with counting_progress("positions") as progress:
        scanner = Scanner(project, pair, sampling, budget=budget, progress=progress)
        found = scanner.scan(files, selection)
    if found.refused:
        words = f"{found.refused} rows cannot be read. The first: {found.reasons[0]}"
        notice(words)
    return project


def _told(found: Comparison, first: str, second: str) -> str:
    lines = [
        f"{found.positions} positions of {found.transcripts} transcripts; A {first}, B {second}"
    ]
    for each in found.themes:
        lines.append(
            f"  {each.term}: A {100 * each.rate_a:.1f} %, B {100 * each.rate_b:.1f} % "
            f"(log odds {each.log_odds:+.2f}, q {each.q:.3f})"
        )
    for each in found.partings[:5]:
        lines += [f"  {each.name}:{each.position} apart by {each.distance:.2f}"]
        lines += [f"    A: {each.a}", f"    B: {each.b}"]
    if found.direction is not None:
        d = found.direction
        lines.append(
            f"  mean difference ({100 * d.norm:.0f} % of an activation's norm): {d.explanation}\n"
            f"    cosine {d.cosine:.2f}; random directions {d.random_mean:.2f}, at most "
            f"{d.random_max:.2f}"
        )
    return "\n".join([*lines, *found.notes])
