"""Sequences of different lengths end to end, after a prefix that all of them share.

A pack holds no padding: `[prefix][own tokens of sequence 0][own tokens of sequence 1]…`. Each
sequence attends to the prefix and to itself, and its positions go on from the prefix's.

Shape letters: S tokens of the pack, Q queries (the tokens whose output is wanted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Packing(NamedTuple):
    """Which tokens of a pack belong together.

    Attributes:
        shared: tokens of the prefix, the first of the pack.
        lengths: own tokens of each sequence.
        wanted: of how many of each sequence's last tokens the output is wanted.
        prefix_wanted: whether the prefix's outputs are wanted, too.
    """

    shared: int
    lengths: Sequence[int]
    wanted: Sequence[int]
    prefix_wanted: bool = False

    @property
    def whole(self) -> Packing:
        """The same pack with every token's output wanted."""
        return self._replace(wanted=self.lengths, prefix_wanted=True)

    @property
    def num_tokens(self) -> int:
        """S."""
        return self.shared + sum(self.lengths)

    def positions(self) -> Int[Tensor, " S"]:
        """The position of each token in its sequence, the prefix included."""
        return spans([0, *[self.shared] * len(self.lengths)], [self.shared, *self.lengths])

    def queries(self) -> Int[Tensor, " Q"]:
        """The tokens of the pack whose output is wanted."""
        segments = list(self.segments())
        firsts = [each.stop - each.wanted for each in segments]
        return spans(firsts, [each.wanted for each in segments])

    def segments(self) -> Iterator[Segment]:
        """The prefix, where it is wanted, and each sequence of which anything is."""
        if self.prefix_wanted and self.shared:
            yield Segment(0, 0, self.shared, self.shared)
        start = self.shared
        for length, wanted in zip(self.lengths, self.wanted, strict=True):
            if wanted:
                yield Segment(self.shared, start, start + length, wanted)
            start += length

    def mask(self, window: int | None, dtype: torch.dtype) -> Float[Tensor, "S S"]:
        """What each token may attend to, as one additive mask: 0, or the dtype's lowest number.

        Args:
            window: a query sees only the last `window` positions, its own among them.
        """
        owner_S = torch.repeat_interleave(torch.tensor([self.shared, *self.lengths]))
        positions_S = self.positions()
        hidden_SS = (owner_S[:, None] != owner_S) & (owner_S != 0)
        hidden_SS |= positions_S[:, None] < positions_S
        if window is not None:
            hidden_SS |= positions_S[:, None] - window >= positions_S
        return torch.zeros(hidden_SS.shape, dtype=dtype).masked_fill_(
            hidden_SS, torch.finfo(dtype).min
        )


class Segment(NamedTuple):
    """One sequence of a pack.

    Attributes:
        shared: tokens of the prefix that it sees.
        start, stop: its own tokens in the pack.
        wanted: of how many of its last tokens the output is wanted.
    """

    shared: int
    start: int
    stop: int
    wanted: int

    @property
    def length(self) -> int:
        """How many tokens are its own."""
        return self.stop - self.start


def spans(starts: Sequence[int], lengths: Sequence[int]) -> Int[Tensor, " N"]:
    """`[start, start + length)` of each, end to end."""
    lengths_M = torch.tensor(lengths)
    shifts_M = torch.tensor(starts) - (lengths_M.cumsum(0) - lengths_M)
    return torch.repeat_interleave(shifts_M, lengths_M) + torch.arange(int(lengths_M.sum()))
