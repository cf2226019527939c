"""Batches of activations from shards, in an order that is a function of the seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from nlakit.data.shards import ShardReader, ShardRecord
from nlakit.errors import InputError
from nlakit.train.run import generator

from .architectures.base import Batch

BUFFER_ROWS = 500_000
"""Rows in memory at once: of neighbouring shards. Buffers are shuffled, and rows within each."""


class Buffer(NamedTuple):
    """Rows in memory.

    Attributes:
        before: for each row the number of the row of the token before it, -1 where it is not here.
    """

    vectors_ND: Tensor
    before: Tensor


class ActivationBatches:
    """Batch after batch of the activations in a directory of shards, for ever.

    Which rows step s sees depends on the seed and on s, never on where a run was interrupted. The
    rows at the end of a buffer that do not fill a batch are passed over; each epoch has others
    there.
    """

    def __init__(
        self,
        directory: str | Path,
        batch_size: int,
        seed: int,
        *,
        pairs: bool = False,
        buffer_rows: int = BUFFER_ROWS,
    ) -> None:
        """
        Args:
            pairs: only rows whose token before is there too, and with it.

        Raises:
            InputError: fewer rows than a batch (with `pairs`, of such rows in a buffer).
            CheckpointError: the shards are not whole.
        """
        self.reader = ShardReader(directory)
        self.batch_size, self.seed, self.pairs = batch_size, seed, pairs
        self.groups = _groups(self.reader.manifest.shards, max(buffer_rows, batch_size))
        self._loaded: tuple[tuple[int, ...], Buffer] | None = None
        self._ordered: tuple[tuple[int, tuple[int, ...]], Tensor] | None = None
        self._usable = {group: self._count(group) for group in self.groups}
        if not any(count >= batch_size for count in self._usable.values()):
            what = "rows with the token before them" if pairs else "rows"
            most = max(self._usable.values(), default=0)
            raise InputError(
                f"{directory} has {most} {what} to a buffer, fewer than a batch of {batch_size}. "
                "Extract more, or neighbouring positions."
            )

    @property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return self.reader.manifest.num_rows

    def sample(self, num_rows: int) -> Tensor:
        """Rows to take scale and mean from: the first buffer's, evenly."""
        vectors_ND = self._buffer(self.groups[0]).vectors_ND
        step = max(1, len(vectors_ND) // num_rows)
        return vectors_ND[::step][:num_rows]

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        steps_per_epoch = sum(count // self.batch_size for count in self._usable.values())
        epoch, place = divmod(step, steps_per_epoch)
        group, number = self._place(epoch, place)
        buffer = self._buffer(group)
        rows = self._order(epoch, group, buffer)[number * self.batch_size :][: self.batch_size]
        before = buffer.vectors_ND[buffer.before[rows]] if self.pairs else None
        return Batch(buffer.vectors_ND[rows], before)

    def _place(self, epoch: int, place: int) -> tuple[tuple[int, ...], int]:
        """Which buffer, and which of its batches, the place in an epoch falls on."""
        for index in torch.randperm(
            len(self.groups), generator=generator(self.seed, epoch)
        ).tolist():
            group = self.groups[index]
            num_batches = self._usable[group] // self.batch_size
            if place < num_batches:
                return group, place
            place -= num_batches
        raise AssertionError("a place beyond the epoch")

    def _order(self, epoch: int, group: tuple[int, ...], buffer: Buffer) -> Tensor:
        if self._ordered is None or self._ordered[0] != (epoch, group):
            usable = torch.arange(len(buffer.vectors_ND))
            if self.pairs:
                usable = (buffer.before >= 0).nonzero().flatten()
            order = torch.randperm(len(usable), generator=generator(self.seed, epoch, *group))
            self._ordered = (epoch, group), usable[order]
        return self._ordered[1]

    def _count(self, group: tuple[int, ...]) -> int:
        if not self.pairs:
            return sum(self.reader.manifest.shards[number].num_rows for number in group)
        return int((self._buffer(group).before >= 0).sum())

    def _buffer(self, group: tuple[int, ...]) -> Buffer:
        if self._loaded is None or self._loaded[0] != group:
            parts = [self.reader.shard(self.reader.manifest.shards[number]) for number in group]
            vectors_ND = torch.cat([vectors for vectors, _ in parts])
            places = [_places(table) for _, table in parts] if self.pairs else []
            keys = [key for each in places for key in each]
            self._loaded = group, Buffer(vectors_ND, _before(keys))
        return self._loaded[1]


def _places(table: pa.Table) -> list[tuple[str, int]]:
    columns = (table.column(name).to_pylist() for name in ("doc_id", "position"))
    return list(zip(*columns, strict=True))


def _before(keys: list[tuple[str, int]]) -> Tensor:
    number = {key: row for row, key in enumerate(keys)}
    return torch.tensor([number.get((doc, position - 1), -1) for doc, position in keys])


def _groups(shards: tuple[ShardRecord, ...], buffer_rows: int) -> list[tuple[int, ...]]:
    """Neighbouring shards that fit into a buffer together."""
    groups: list[tuple[int, ...]] = []
    rows = 0
    for index, shard in enumerate(shards):
        if groups and rows + shard.num_rows <= buffer_rows:
            groups[-1] = (*groups[-1], index)
            rows += shard.num_rows
        else:
            groups.append((index,))
            rows = shard.num_rows
    return groups
