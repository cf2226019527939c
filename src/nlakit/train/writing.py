"""What a model writes of many activations, kept part by part: a killed run goes on with the next.

written-00000.jsonl   one line for each of the first activations, in order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nlakit.config import write_text_atomic

from . import distributed
from .progress import count_progress

PART_ROWS = 1200
"""Activations whose lines are kept at once."""

WriteRows = Callable[[range], Sequence[str]]
"""The lines of some rows; each process takes part, and gets those of all."""


def written_lines(
    directory: Path, total: int, title: str, writer: Callable[[], WriteRows]
) -> list[str]:
    """A line for each of `total` rows; those of a part that is there are not written again.

    Args:
        writer: gives what writes; asked where any part is missing, since it loads models.
    """
    parts = [range(first, min(total, first + PART_ROWS)) for first in range(0, total, PART_ROWS)]
    paths = [directory / f"written-{number:05d}.jsonl" for number in range(len(parts))]
    missing = [at for at, path in enumerate(paths) if not path.exists()]
    # No process writes before all have looked.
    distributed.wait()
    if missing:
        write = writer()
        done = total - sum(len(parts[at]) for at in missing)
        with count_progress(title, total) as progress:
            progress(done, total)
            for at in missing:
                lines = write(parts[at])
                if distributed.is_first():
                    write_text_atomic(paths[at], "".join(f"{line}\n" for line in lines))
                done += len(lines)
                progress(done, total)
    distributed.wait()
    # Not `splitlines`: a line of JSON may hold other marks that it takes for a line's end.
    return [
        line
        for path in paths
        for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ]
