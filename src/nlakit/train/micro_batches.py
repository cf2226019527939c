"""How many rows of a batch are run at once: as many as a recipe says, or as memory holds.

Gradients of micro-batches add up, so that the choice changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

TOKENS_ON_CPU = 2048
"""With more a step is no faster there: measured on SmolLM2's shapes, 1,443 and 2,697 tokens."""
SHARE = 0.6
"""Of the free memory that activations may take; the rest is for the head's logits, gradients and
what the estimate leaves out."""
FEWEST_TOKENS = 512


def micro_batches(
    rows: Sequence[int], tokens: Sequence[int] | np.ndarray, asked: int | None, budget: int
) -> Iterator[list[int]]:
    """The rows in runs of like length.

    Args:
        tokens: of every row that `rows` may name.
        asked: rows in each; None: as many as have `budget` tokens, at least one.
    """
    batch: list[int] = []
    held = 0
    for row in sorted(rows, key=lambda row: tokens[row]):
        full = len(batch) == asked if asked else held + tokens[row] > budget
        if batch and full:
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += tokens[row]
    if batch:
        yield batch


def token_budget(backbone: Any, gradient_checkpointing: bool) -> int:
    """Tokens of a training forward and backward that the model's device has memory for."""
    device = next(backbone.parameters()).device
    if device.type != "cuda":
        return TOKENS_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    # What torch has reserved and does not use is free as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    each = bytes_per_token(backbone.config, backbone.dtype.itemsize, gradient_checkpointing)
    return max(FEWEST_TOKENS, int(SHARE * free / each))


def bytes_per_token(config: Any, itemsize: int, gradient_checkpointing: bool) -> float:
    """What a training forward keeps of one token for its gradient.

    Of each block: four residuals, queries, keys and values before and after rotation (with the
    prefix's repeated for each sequence, about as many again), what attention gives, and four rows
    of the MLP. With gradient checkpointing the residual, and the rest of one block.
    """
    num_heads = config.num_attention_heads
    num_kv = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    attention = (3 * num_heads + 6 * num_kv) * head_dim
    block = 4 * config.hidden_size + attention + 4 * width
    blocks = config.num_hidden_layers
    numbers = blocks * config.hidden_size + block if gradient_checkpointing else blocks * block
    return float(itemsize * numbers)
