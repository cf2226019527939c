"""Gradient checkpointing: a training forward that keeps no block's insides and makes them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from nlakit.models.families import blocks_of


@contextmanager
def recomputing(backbone: Any, active: bool = True) -> Iterator[None]:
    """While it is open, forwards of `backbone` keep the residual between blocks and no more.

    Its blocks then take no cache. Hugging Face's blocks look at these flags themselves; only
    theirs are set, not their modules', so that no dropout wakes up.
    """
    if not active:
        yield
        return
    blocks = list(blocks_of(backbone))
    was_training = [block.training for block in blocks]
    for block in blocks:
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        block.gradient_checkpointing = block.training = True
    try:
        yield
    finally:
        for block, training in zip(blocks, was_training, strict=True):
            block.gradient_checkpointing, block.training = False, training
