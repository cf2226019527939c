"""Choosing tokens from logits, given the random numbers.

One uniform number decides one token, so that a row's text depends on its own numbers and not on
what else is in the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample_rows(
    logits_BV: Float[Tensor, "B V"],
    uniform_B: Float[Tensor, " B"],
    temperature: float | int,
    top_p: float | int = 1.0,
) -> Int[Tensor, " B"]:
    """One id per row by inverse CDF; temperature 0 takes the most likely id.

    Args:
        uniform_B: numbers in [0, 1).
        top_p: only the smallest set of likeliest ids with at least this mass can be drawn.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if top_p >= 1:
        return _invert_cdf(probs_BV, uniform_B)
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    before_BV[:, 0] = 0.0
    nucleus_BV = sorted_BV.masked_fill(before_BV >= max(top_p, 1e-9), 0.0)
    return order_BV.gather(1, _invert_cdf(nucleus_BV, uniform_B)[:, None])[:, 0]


def _invert_cdf(
    weights_BV: Float[Tensor, "B V"], uniform_B: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """The first id whose cumulative weight exceeds `uniform * total`; its weight is not zero."""
    cdf_BV = weights_BV.cumsum(dim=-1)
    total_B = cdf_BV[:, -1]
    # Rounding may carry the product to the total itself, past the last id that has weight.
    below_B = torch.nextafter(total_B, torch.zeros_like(total_B))
    target_B = torch.minimum(uniform_B.to(total_B) * total_B, below_B)
    return torch.searchsorted(cdf_BV, target_B[:, None], right=True)[:, 0]
