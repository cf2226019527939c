"""Rows of many texts written side by side, with somebody told how many are left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from nlakit.console import notices
from nlakit.engines.base import Engine
from nlakit.errors import InputError
from nlakit.models.encoded import Encoded
from nlakit.reading import TokenReading

ROWS_PER_CALL = 256
"""Rows between two reports of the progress."""

OnRows = Callable[[int, int], None]
"""Called with (rows read, rows)."""


class ReadRows(Protocol):
    """Reads vectors; their names are the token's number and its text."""

    def __call__(
        self, vectors_ND: Tensor, names: Sequence[tuple[int, str]], *, first: int
    ) -> tuple[TokenReading, ...]: ...


def read_together(
    engine: Engine,
    texts: Sequence[Encoded],
    places: Sequence[Sequence[int]],
    read: ReadRows,
    progress: OnRows | bool,
) -> list[list[TokenReading]]:
    """Per text the readings at its places.

    Raises:
        InputError: there are no texts.
    """
    if not texts:
        raise InputError("No texts were given. Give at least one.")
    rows = [(text, place) for text, found in enumerate(places) for place in found]
    found: list[list[TokenReading]] = [[] for _ in texts]
    with told(progress) as tell:
        for start in range(0, len(rows), ROWS_PER_CALL):
            part = rows[start : start + ROWS_PER_CALL]
            vectors_ND = _extracted(engine, texts, part)
            names = [(place, texts[text].tokens[place]) for text, place in part]
            made = read(vectors_ND, names, first=start)
            for (text, _), row in zip(part, made, strict=True):
                found[text].append(row)
            tell(start + len(part), len(rows))
    return found


def _extracted(engine: Engine, texts: Sequence[Encoded], part: Sequence[tuple[int, int]]) -> Tensor:
    """Activations of (text, place) rows that are sorted by their text: N x D."""
    groups = groupby(part, key=lambda row: row[0])
    found = [engine.extract(texts[text], [place for _, place in own]) for text, own in groups]
    return torch.cat([each.cpu() for each in found])


@contextmanager
def told(progress: OnRows | bool) -> Iterator[OnRows]:
    """Whom progress is told: a function, a bar on stderr, or nobody."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from rich.progress import Progress

        with Progress(console=notices(), transient=True) as bar:
            task = bar.add_task("reading", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
