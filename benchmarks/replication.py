"""Whether the storyworld's recipe, run anew from nothing, gives the package's weights and figures.

    nlakit train recipes/storyworld.toml --output RUN
    python -m benchmarks.replication RUN

RUN is the finished run. Compared are the SHA-256 of each weight file that the package's report
names, and every number of the reports.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlakit.config import write_text_atomic
from nlakit.registry import bundled_path

from .results import DIRECTORY, machine

RESULT = DIRECTORY / "storyworld-replication.json"
REPORT_NAME = "report.json"


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Two reports side by side: `weights`, whether each file is the same; `figures`, how many
    numbers there are; `equal`, how many of them are; `furthest`, the largest relative difference.

    Raises:
        ValueError: the reports are not of the same documents, or one has figures of its own.
    """
    asked = ("nla", "documents", "seed", "temperature")
    if any(ours[name] != theirs[name] for name in asked):
        raise ValueError(f"the reports differ in one of {', '.join(asked)}")
    weights = {
        name: theirs["weights"].get(name) == digest for name, digest in ours["weights"].items()
    }
    left = dict(_numbers({**ours, "weights": None}))
    right = dict(_numbers({**theirs, "weights": None}))
    if left.keys() != right.keys():
        raise ValueError(f"figures of one report alone: {sorted(left.keys() ^ right.keys())[:5]}")
    gaps = [_gap(left[name], right[name]) for name in left]
    return {
        **{name: ours[name] for name in asked},
        "weights": weights,
        "figures": len(gaps),
        "equal": sum(gap == 0 for gap in gaps),
        "furthest": max(gaps),
        "fve": [ours["fve"], theirs["fve"]],
        "precision": [ours["claims"]["precision"], theirs["claims"]["precision"]],
    }


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a report by its path; a text or a flag is no figure."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{name}/{number}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _gap(ours: float, theirs: float) -> float:
    """The relative difference of two numbers; 0 of equal ones."""
    return 0.0 if ours == theirs else abs(ours - theirs) / max(abs(ours), abs(theirs))


def told(text: str) -> str:
    """The comparison in a few lines."""
    found = json.loads(text)
    same = sum(found["weights"].values())
    differ = [name for name, is_same in found["weights"].items() if not is_same]
    lines = [
        f"- {same} of {len(found['weights'])} weight files are the same byte for byte"
        + (f"; not {', '.join(differ)}." if differ else "."),
        f"- {found['equal']:,} of the report's {found['figures']:,} numbers are equal; the largest "
        f"relative difference is {found['furthest']:.0e}.",
        f"- FVE {found['fve'][0]:.4f} and {found['fve'][1]:.4f}, precision "
        f"{found['precision'][0]:.4f} and {found['precision'][1]:.4f}, on {found['documents']:,} "
        "held-out documents.",
    ]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Compare a run with the package; write and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run of the recipe")
    asked = parser.parse_args(arguments)
    ours, theirs = bundled_path() / REPORT_NAME, asked.run / "nla" / REPORT_NAME
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (ours, theirs)]
    text = json.dumps({**compare(*reports), "machine": machine()}, indent=2) + "\n"
    write_text_atomic(RESULT, text)
    print(told(text), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
