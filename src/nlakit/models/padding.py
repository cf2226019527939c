"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

TOKENS_PER_BATCH = 16_384
"""Padded tokens in one forward pass without gradients: bounds memory, enough to keep cores busy."""


def pad_right(rows: Sequence[Sequence[int]], pad_id: int = 0) -> Int[Tensor, "B T"]:
    """Rows of ids as one tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])


def real_tokens(lengths: Sequence[int]) -> Bool[Tensor, "B T"]:
    """True where a right-padded batch of rows of these lengths holds a real token."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each of at most `budget` padded tokens.

    A sequence longer than the budget comes alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
