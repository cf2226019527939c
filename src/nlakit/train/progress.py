"""What long work says of itself on stderr: a bar in a terminal, a line a minute in a file.

Both with the time that is left, the last figures and, now and then, an explanation as the weights
are. Work that is resumed says from where.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nlakit.console import notices

from . import distributed

LINE_EVERY_S, EXAMPLE_EVERY_S = 60.0, 600.0
SHOWN_FIGURES = 4

Advance = Callable[[Mapping[str, float]], None]
"""Called after each step with its figures."""
Example = Callable[[], str]
"""Writes an explanation as the weights are."""


class _Shown(Protocol):
    """Where progress is shown."""

    def step(self, figures: str, count: int = 1) -> None: ...
    def say(self, text: str) -> None: ...


class _Bar:
    """A bar of `rich`."""

    def __init__(self, progress: Progress, title: str, total: int, done: int):
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, figures="")

    def step(self, figures: str, count: int = 1) -> None:
        self._progress.update(self._task, advance=count, figures=figures)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


class _Lines:
    """A line a minute, for a log that somebody reads later."""

    def __init__(self, console: Console, title: str, total: int, done: int):
        self._console, self._title, self._total = console, title, total
        self._first = self._done = self._told_of = done
        self._started = self._told = time.monotonic()
        self.figures = ""

    def step(self, figures: str, count: int = 1) -> None:
        self._done, self.figures = self._done + count, figures
        now = time.monotonic()
        if now - self._told >= LINE_EVERY_S:
            # By the pace since the last line: what was kept of an earlier run took no time.
            made = self._done - self._told_of
            left = (now - self._told) / made * (self._total - self._done)
            self._told, self._told_of = now, self._done
            self.say(f"{self._title}: {self._counted}, {time_span(left)} left  {figures}".rstrip())

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """A last line, however short the work was."""
        if self._done > self._first:
            took = time_span(time.monotonic() - self._started)
            self.say(f"{self._title}: {self._counted} after {took}  {self.figures}".rstrip())

    @property
    def _counted(self) -> str:
        return f"{self._done} of {self._total}"


@contextmanager
def step_progress(
    title: str, total: int, done: int = 0, example: Example | None = None
) -> Iterator[Advance]:
    """Progress of `total` steps, `done` of which were made before. The first process shows it."""
    console = notices(shown=distributed.is_first())
    if 0 < done < total:
        said = f"{title}: resuming after {done} of {total}."
        console.print(said, markup=False, highlight=False)
    with _shown(console, title, total, done) as shown:
        told = time.monotonic()

        def advance(metrics: Mapping[str, float]) -> None:
            nonlocal told
            some = list(metrics.items())[:SHOWN_FIGURES]
            shown.step("  ".join(f"{key} {value:.3g}" for key, value in some))
            if example is not None and time.monotonic() - told >= EXAMPLE_EVERY_S:
                told = time.monotonic()
                shown.say(f"{title}, an explanation: {' '.join(example().split())}")

        yield advance


@contextmanager
def _shown(console: Console, title: str, total: int, done: int) -> Iterator[_Shown]:
    if not console.is_terminal or console.quiet:
        lines = _Lines(console, title, total, done)
        yield lines
        lines.finish()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, title, total, done)


@contextmanager
def count_progress(title: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """The same for work that calls back with (done, total); what was there before is at once."""
    console = Console(stderr=True, quiet=not distributed.is_first())
    with _shown(console, title, total, 0) as shown:
        reached = 0

        def progress(done: int, _total: int) -> None:
            nonlocal reached
            # At once: a line in the middle of them would take their time for the first one's.
            if done > reached:
                shown.step("", done - reached)
            reached = done

        yield progress


def time_span(seconds: float) -> str:
    """A stretch of time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1g} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
