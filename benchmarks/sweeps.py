"""How the time grows: one option varied, all else fixed, a slope fitted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .measure import fit
from .process import Side

RUNS = 2


@dataclass(frozen=True)
class Sweep:
    """A side whose options are a function of one number.

    Attributes:
        what: what the number is, as the table's head says it.
        values: the numbers, ascending.
        options: the side's options for one of them.
        seconds: about how long it takes in all.
        fresh: whether each value gets a process of its own, so that its memory can be told.
    """

    what: str
    side: str
    values: tuple[int, ...]
    options: Callable[[int], dict[str, Any]]
    seconds: float
    fresh: bool = False


MODELS = {8192: "S", 32_768: "V32", 152_064: "V"}
SWEEPS = {
    "batch": Sweep(
        "rows side by side",
        "ours.explain",
        (1, 2, 4, 8, 16, 32, 64, 128),
        lambda n: {"model": "S", "rows": n, "max_rows": n, "new_tokens": 72},
        30,
    ),
    "positions": Sweep(
        "positions of a text of 512 tokens, 48 new tokens each",
        "ours.read_text",
        (1, 4, 16, 64, 256),
        lambda n: {"model": "S", "tokens": 512, "positions": n, "new_tokens": 48},
        25,
    ),
    "document": Sweep(
        "tokens of a text, extraction alone",
        "ours.read_text",
        (128, 256, 512, 1024, 2048),
        lambda n: {"model": "S", "tokens": n, "positions": 1},
        12,
    ),
    "new_tokens": Sweep(
        "new tokens",
        "ours.explain",
        (18, 36, 72, 144, 288),
        lambda n: {"model": "S", "rows": 32, "new_tokens": n},
        25,
    ),
    "prefix_share": Sweep(
        "prefix tokens shared, of 111",
        "ours.explain",
        (1, 28, 56, 84, 111),
        lambda n: {"model": "S", "rows": 32, "new_tokens": 72, "shared": n},
        20,
    ),
    "group": Sweep(
        "samples of each vector, 64 rows in all",
        "ours.explain",
        (1, 2, 4, 8, 16),
        lambda n: {"model": "S", "rows": 64, "samples": n, "new_tokens": 36},
        20,
    ),
    "vocabulary": Sweep(
        "entries of the vocabulary",
        "ours.explain",
        tuple(MODELS),
        lambda n: {"model": MODELS[n], "rows": 32, "new_tokens": 36},
        20,
    ),
    "rows": Sweep(
        "rows of a data set, 2 new tokens each (tiny model)",
        "ours.many_rows",
        (1000, 10_000, 100_000),
        lambda n: {"model": "T", "rows": n, "new_tokens": 2},
        120,
        fresh=True,
    ),
}


def measured(sweep: Sweep) -> Callable[[object], dict[str, Any]]:
    """The section of a sweep; it does not depend on the plan."""

    def measure(_plan: object) -> dict[str, Any]:
        points = list(_fresh_points(sweep) if sweep.fresh else _points(sweep))
        seconds = [point["seconds"] for point in points]
        return {
            "what": sweep.what,
            "points": points,
            "fit": fit(sweep.values, seconds)._asdict(),
        }

    return measure


def _points(sweep: Sweep) -> Sequence[dict[str, Any]]:
    """One process for all values; up and then down, so that a drift cancels."""
    seconds: dict[int, list[float]] = {value: [] for value in sweep.values}
    with Side(sweep.side, sweep.options(sweep.values[0])) as side:
        side.ready()
        for number in range(RUNS):
            for value in sweep.values[:: -1 if number % 2 else 1]:
                side.prepare(sweep.options(value))
                seconds[value].append(side.run().wall_s)
    return [{"x": value, "seconds": statistics.median(each)} for value, each in seconds.items()]


def _fresh_points(sweep: Sweep) -> Sequence[dict[str, Any]]:
    points = []
    for value in sweep.values:
        with Side(sweep.side, sweep.options(value)) as side:
            side.ready()
            run = side.run()
        points.append({"x": value, "seconds": run.wall_s, "peak_mib": run.peak_mib, **run.facts})
    return points
