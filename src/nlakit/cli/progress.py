"""What is shown on stderr while something runs; nothing where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nlakit.console import notices
from nlakit.engines.base import OnText
from nlakit.printable import printable


@contextmanager
def reading_progress() -> Iterator[OnText | None]:
    """A spinner with the number of tokens written and the words of the newest explanation.

    None where stderr is not a terminal: looking at every token costs time.
    """
    console = notices()
    if not console.is_terminal or console.quiet:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading")
        written = 0

        def on_text(row: int, sample: int, text: str) -> None:
            nonlocal written
            written += 1
            tail = " ".join(text.split())[-40:]
            # The explanation is the model's, and may look like markup.
            shown = printable(tail.replace("[", "(").replace("]", ")"))
            progress.update(task, description=f"{written} tokens written  … {shown}")

        yield on_text


@contextmanager
def counting_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with the time that is left, told (done, total); None where nobody watches."""
    console = notices()
    if not console.is_terminal or console.quiet:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
