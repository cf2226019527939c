"""`nlakit detect`: questions to every reading of a project, with statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.audit.detect import LABELS, Detected, Share, hits_of
from nlakit.audit.detect import detect as ask
from nlakit.audit.detectors import asker, read_detectors
from nlakit.audit.project import Project
from nlakit.audit.tokens import continued
from nlakit.console import tell
from nlakit.errors import InputError

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .results import write_json
from .search import ALL, FilterOptions

SHOWN = 10


def detect(
    project: Path,
    detectors: Path,
    /,
    *,
    continuation: int = 0,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
    only: FilterOptions = ALL,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Ask detectors of every reading: hits beside what chance and the text alone explain.

    Parameters
    ----------
    project
        A project that `nlakit scan` made.
    detectors
        A TOML file: phrases, a regular expression, a sentence, or a judge with a rubric, each.
    continuation
        Let the target continue each transcript by N tokens, and ask that too; needs the pair.
    seed
        Decides which other transcripts are compared with.
    json
        Print one JSON object.
    only
        Which readings count.
    devices
        Where models run.
    """
    if continuation < 0:
        raise InputError(f"--continuation must be 0 or more, found {continuation}.")
    opened, found = Project.open(project), read_detectors(detectors)
    go_on = None
    if continuation:
        go_on = continued(opened, pair.load(devices).target, continuation)
    cache = opened.directory / "judges.sqlite"
    made = [ask(opened, d, asker(d, cache), only.filters(), go_on, seed) for d in found]
    if json:
        told = {"project": str(project), "labels": LABELS, "detectors": [d.to_json() for d in made]}
        write_json(told)
        return
    for each in made:
        tell(_told(each))


def _told(found: Detected) -> str:
    lines = [
        f"{found.name} ({found.kind})",
        f"  found at {_shown(found.found)} of transcripts; any of all readings at "
        f"{_shown(found.any)}, by chance {_percent(found.floor)}",
        f"  the text alone {_shown(found.text)}",
        f"  {_shown(found.rate)} of positions",
    ]
    if found.continuation is not None:
        lines.append(f"  the target's own continuation {_shown(found.continuation)}")
    lines += [
        f"  {label}: {count}: {LABELS[label]}" for label, count in found.labels.items() if count
    ]
    for each in list(hits_of(found))[:SHOWN]:
        places = ", ".join(map(str, each.positions[:SHOWN]))
        lines.append(
            f"    {each.name}: {each.unsupported} of {each.n} (others {_percent(each.others)}, "
            f"q {each.q:.1e}) at {places}"
        )
    return "\n".join(lines)


def _shown(value: Share) -> str:
    ends = "" if value.low is None else f" ({_percent(value.low)} to {_percent(value.high)})"
    return f"{_percent(value.value)}{ends}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
