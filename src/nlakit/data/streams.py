"""Rows that stay on disk: those that are asked for are read, and what is in memory does not grow.

Of a row a few bytes are in memory: its number, whether it has a label, how many tokens it has. What
is read lies in the operating system's cache of files, which gives it up when memory is wanted.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

Index = int | slice | Sequence[int] | Tensor


class Vectors(Protocol):
    """Raw vectors N x D, in memory or not: a tensor is one."""

    @property
    def shape(self) -> Any:
        """N and D."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """One vector for an int, else those of the rows, in memory."""
        ...


class VectorRows:
    """Vectors in memory-mapped parts, end to end.

    Args:
        parts: of each file its vectors, n x D, mapped and not read.
        kept: numbers of the rows that are in, ascending; None: all.
    """

    def __init__(self, parts: Sequence[Tensor], kept: np.ndarray | None = None) -> None:
        self._parts = list(parts)
        self._starts = torch.tensor([0, *accumulate(len(part) for part in self._parts)])
        self._kept = None if kept is None else torch.from_numpy(kept)
        num_rows = int(self._starts[-1]) if kept is None else len(kept)
        self.shape = torch.Size((num_rows, self._parts[0].shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index, /) -> Tensor:
        if isinstance(rows, int):
            return self[[rows]][0]
        if isinstance(rows, slice):
            numbers = torch.arange(*rows.indices(len(self)))
        else:
            numbers = torch.as_tensor(rows, dtype=torch.long)
            numbers = torch.where(numbers < 0, numbers + len(self), numbers)
        if self._kept is not None:
            numbers = self._kept[numbers]
        return self._gather(numbers)

    def _gather(self, numbers: Tensor) -> Tensor:
        found = torch.empty(len(numbers), self.shape[1])
        part_of = torch.searchsorted(self._starts, numbers, right=True) - 1
        for part in part_of.unique().tolist():
            here = part_of == part
            found[here] = self._parts[part][numbers[here] - self._starts[part]]
        return found


class TextRows(Sequence[str]):
    """Texts of files, end to end; the file that was read last is kept.

    Args:
        sizes: how many rows each file has.
        read: the texts of a file by its place, None where a row has none.
        kept: numbers of the rows that are in, ascending.
    """

    def __init__(
        self, sizes: Sequence[int], read: Callable[[int], list[str | None]], kept: np.ndarray
    ) -> None:
        self._starts = [0, *accumulate(sizes)]
        self._read, self._kept = read, kept
        self._last: tuple[int, list[str | None]] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, row: int, /) -> str: ...
    @overload
    def __getitem__(self, row: slice, /) -> list[str]: ...
    def __getitem__(self, row: int | slice, /) -> str | list[str]:
        if isinstance(row, slice):
            return [self._at(int(number)) for number in self._kept[row]]
        return self._at(int(self._kept[row]))

    def __iter__(self) -> Iterator[str]:
        return (self._at(int(number)) for number in self._kept)

    def _at(self, number: int) -> str:
        part = bisect_right(self._starts, number) - 1
        if self._last is None or self._last[0] != part:
            self._last = part, self._read(part)
        text = self._last[1][number - self._starts[part]]
        assert text is not None, "only rows with a text are kept"
        return text


class NumberRows:
    """Rows of numbers of any length, in a file that vanishes with this object.

    Args:
        directory: where there is room for it.
        rows: read once, and never held together.
        dtype: of the numbers.
    """

    def __init__(self, directory: Path, rows: Iterable[Sequence[float]], dtype: Any) -> None:
        lengths = []
        # Mapped, the file lives on when it is closed, and has no name that a kill could leave.
        with tempfile.TemporaryFile(dir=directory) as file:
            for row in rows:
                np.asarray(row, dtype).tofile(file)
                lengths.append(len(row))
            file.flush()
            # An empty file cannot be mapped.
            self._numbers = np.memmap(file, dtype, "r") if sum(lengths) else np.empty(0, dtype)
        self.lengths = np.array(lengths, np.int32)
        self._starts = np.concatenate([[0], self.lengths.cumsum(dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> list[Any]:
        """One row."""
        return self._numbers[self._starts[number] : self._starts[number + 1]].tolist()

    def some(self, numbers: Iterable[int]) -> list[list[Any]]:
        """Some rows, in the order given."""
        return [self.row(number) for number in numbers]


class StoredTable:
    """A table of rows that is read when it is asked for, and kept no longer than it is used."""

    def __init__(self, num_rows: int, read: Callable[[], pa.Table]) -> None:
        self.num_rows, self.read = num_rows, read
