"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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


def length_batches(lengths: Sequence[int], budget: int, config: Any = None) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each of at most `budget` padded tokens.

    A sequence longer than the budget comes alone.

    Args:
        config: of the model that runs them: long and short ones come apart where it rotates them
            otherwise (`longrope_length`).
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    most = longrope_length(config)
    num_long = 0 if most is None else sum(length > most for length in lengths)
    for part in (order[:num_long], order[num_long:]):
        start = 0
        while start < len(part):
            size = max(1, budget // max(1, lengths[part[start]]))
            yield part[start : start + size]
            start += size


def longrope_length(config: Any) -> int | None:
    """Tokens past which LongRoPE (Phi-3) rotates a whole batch by its long factors; else None."""
    rope = getattr(config, "rope_parameters", None) or {}
    is_long = rope.get("rope_type") == "longrope"
    return rope.get("original_max_position_embeddings") if is_long else None
