"""Arithmetic of a measurement: runs, the ratio of two sides with its interval, fitted slopes."""

from __future__ import annotations

import math
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Done:
    """What one run of a task did.

    Attributes:
        items: explanations, rows or steps: what the rate is counted in.
        facts: anything else to be kept.
    """

    items: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One side of a comparison, prepared.

    Attributes:
        run: does the work once.
        warm: a small piece of it, so that no first call is timed.
        flops: floating point operations of the model in one run, where they are known.
    """

    run: Callable[[], Done]
    warm: Callable[[], object] = lambda: None
    flops: float | None = None


@dataclass(frozen=True)
class Run:
    """One timed run: seconds by the clock and of the processor, and the process's peak so far."""

    items: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Items a second, by the clock."""
        return self.items / self.wall_s


class Ratio(NamedTuple):
    """Median over the rounds, and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float


class Fit(NamedTuple):
    """`seconds = intercept + slope * x` by least squares; and e of `seconds ~ x ** e`."""

    intercept: float
    slope: float
    exponent: float


def timed(run: Callable[[], Done]) -> Run:
    """Run once and take the time."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(done.items, wall, cpu, peak_mib(), done.facts)


def peak_mib() -> float:
    """The most memory this process has held, in MiB (Linux counts `ru_maxrss` in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio:
    """How many times faster `ours` is, from rates measured in turn.

    Each round gives one ratio, so that what slows both sides of a round cancels; rounds are
    resampled.

    Raises:
        ValueError: no rounds, or not as many on both sides.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"Rounds must pair up: {len(ours)} against {len(theirs)}.")
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(seed)
    medians = sorted(
        statistics.median(rng.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES)
    )
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]
    return Ratio(statistics.median(rounds), low, high)


def fit(xs: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Slopes of a sweep. Raises ValueError for fewer than two distinct points."""
    if len(set(xs)) < 2 or len(xs) != len(seconds):
        raise ValueError(f"A slope needs two distinct points, found {len(set(xs))}.")
    slope, intercept = np.polyfit(xs, seconds, 1)
    exponent, _ = np.polyfit([math.log(x) for x in xs], [math.log(s) for s in seconds], 1)
    return Fit(float(intercept), float(slope), float(exponent))


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Medians of one side's runs, as they are stored."""
    return {
        "rate": statistics.median(run.rate for run in runs),
        "wall_s": statistics.median(run.wall_s for run in runs),
        "cpu_s": statistics.median(run.cpu_s for run in runs),
        "cpu_rate": statistics.median(run.items / run.cpu_s for run in runs),
        "peak_mib": max(run.peak_mib for run in runs),
        "rounds": len(runs),
    }


def as_json(run: Run) -> dict[str, Any]:
    """A run as it crosses from a worker to its parent."""
    return asdict(run)
