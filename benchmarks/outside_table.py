"""Table of what a pair asserts outside of what it knows, from committed reports. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "results" / "outside"
"""What `nlakit eval confidence --outside --json` printed, with and without --outside-corpus."""


def table(text: str) -> str:
    """A line a report: inside, on other text, on Gaussian vectors."""
    reports = json.loads(text)
    lines = [
        "| explanations, inside | claims | ECE | other texts | claims | ≥ 0.9 | ≥ 0.5 | Gaussian "
        "vectors: claims | ≥ 0.9 | ≥ 0.5 |",
        "|---|" + "---:|" * 9,
    ]
    ordered = sorted(reports, key=lambda each: (each["temperature"], -each["texts"]))
    return "\n".join([*lines, *map(_line, ordered), ""])


def _line(report: dict[str, Any]) -> str:
    words = "sampled" if report["temperature"] else "greedy"
    cells = [f"{words}, seed {report['seed']}", f"{report['claims']:,}", f"{report['ece']:.3f}"]
    cells.append(str(report["texts"]))
    for name in ("text", "gaussian"):
        found = report["outside"][name]
        cells += [f"{found['claims']:,}"]
        cells += [f"{100 * found[key]:.1f} %" for key in ("share_at_90", "share_at_50")]
    return f"| {' | '.join(cells)} |"
