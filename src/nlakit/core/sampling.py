"""Choosing tokens from logits, given the random numbers.

One uniform number decides one token, so that a row's text depends on its own numbers and not on
what else is in the batch.

At large vocabularies the cost is in passes over the columns. Rows are taken a few at a time, while
they are in the processor's cache, and a token is found in two steps: its block of columns, then its
place in the block, so that only the sums of blocks are ever accumulated.

Shape letters: B rows, V vocabulary, N blocks, K columns of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nlakit.core.temperature import GREEDY_BELOW

BLOCK = 64
"""Columns of a block (K). Vocabularies are mostly multiples of it; others are filled up."""

CACHED = 1 << 18
"""Numbers a CPU works on at once: one row of a large vocabulary, or many of a small one."""

NUCLEUS = 256
"""Likeliest tokens looked at first for `top_p`; a row that needs more is sorted whole."""

ROUNDING = 1e-6
"""A set that lacks so small a share of `top_p` has it, but for rounding."""


class Drawn(NamedTuple):
    """Tokens, and their log-probabilities at temperature 1 over the whole vocabulary."""

    ids_B: Int[Tensor, " B"]
    logprobs_B: Float[Tensor, " B"]


def draw_rows(
    logits_BV: Float[Tensor, "B V"],
    uniform_B: Float[Tensor, " B"],
    temperature: float | int,
    top_p: float | int = 1.0,
) -> Drawn:
    """One id per row by inverse CDF; a temperature below `GREEDY_BELOW` takes the most likely id.

    Args:
        uniform_B: numbers in [0, 1).
        top_p: only the smallest set of likeliest ids with at least this mass can be drawn.
    """
    num_rows, num_columns = logits_BV.shape
    on_cpu = logits_BV.device.type == "cpu"
    rows = max(1, CACHED // num_columns if on_cpu else num_rows)
    pairs = zip(logits_BV.split(rows), uniform_B.split(rows), strict=True)
    parts = [_draw(logits, uniform, temperature, top_p) for logits, uniform in pairs]
    if len(parts) == 1:
        return parts[0]
    return Drawn(*(torch.cat(column) for column in zip(*parts, strict=True)))


def sample_rows(
    logits_BV: Float[Tensor, "B V"],
    uniform_B: Float[Tensor, " B"],
    temperature: float | int,
    top_p: float | int = 1.0,
) -> Int[Tensor, " B"]:
    """The ids of `draw_rows`."""
    return draw_rows(logits_BV, uniform_B, temperature, top_p).ids_B


def _draw(
    logits_BV: Tensor, uniform_B: Tensor, temperature: float | int, top_p: float | int
) -> Drawn:
    """`draw_rows`, for rows that fit the cache. Weights are `exp(logit - largest)`."""
    logits_BV = logits_BV.float()
    largest_B1 = logits_BV.amax(dim=-1, keepdim=True)
    weights_BV = (logits_BV - largest_B1).exp_()
    sums_BN = _blocks(weights_BV, 0.0).sum(dim=-1)
    log_total_B = largest_B1[:, 0] + sums_BN.sum(dim=-1).log()
    if temperature < GREEDY_BELOW:
        ids_B = _argmax(logits_BV)
    else:
        if temperature != 1:
            torch.sub(logits_BV, largest_B1, out=weights_BV).div_(temperature).exp_()
            sums_BN = _blocks(weights_BV, 0.0).sum(dim=-1)
        draw = _draw_from_all if top_p >= 1 else _draw_from_nucleus
        # NaN weights lead past the end, and an index out of range would end a GPU's process.
        ids_B = draw(weights_BV, sums_BN, uniform_B, top_p).clamp_max_(logits_BV.shape[1] - 1)
    return Drawn(ids_B, logits_BV.gather(1, ids_B[:, None])[:, 0] - log_total_B)


def _blocks(x_BV: Tensor, fill: float) -> Tensor:
    """Columns in blocks, B x N x K; the last one is filled up."""
    missing = -x_BV.shape[1] % BLOCK
    return (F.pad(x_BV, (0, missing), value=fill) if missing else x_BV).unflatten(1, (-1, BLOCK))


def _argmax(x_BV: Tensor) -> Tensor:
    """The first largest column: of the first block that has it, since `argmax` is a slow pass."""
    blocks_BNK = _blocks(x_BV, -torch.inf)
    block_B = blocks_BNK.amax(dim=-1).argmax(dim=-1)
    return block_B * BLOCK + _pick(blocks_BNK, block_B).argmax(dim=-1)


def _draw_from_all(
    weights_BV: Tensor, sums_BN: Tensor, uniform_B: Tensor, _: float | int
) -> Tensor:
    block_B, rest_B = _locate(sums_BN, uniform_B * sums_BN.sum(dim=-1))
    within_B, _rest = _locate(_pick(_blocks(weights_BV, 0.0), block_B), rest_B)
    return block_B * BLOCK + within_B


def _draw_from_nucleus(
    weights_BV: Tensor, sums_BN: Tensor, uniform_B: Tensor, top_p: float | int
) -> Tensor:
    share = max(top_p, 1e-9) * (1 - ROUNDING)
    mass_B1 = share * sums_BN.sum(dim=-1, keepdim=True)
    largest_BK, order_BK = _largest(weights_BV, mass_B1)
    before_BK = largest_BK.cumsum(dim=-1) - largest_BK
    before_BK[:, 0] = 0.0
    nucleus_BK = largest_BK.masked_fill(before_BK >= mass_B1, 0.0)
    place_B, _rest = _locate(nucleus_BK, uniform_B * nucleus_BK.sum(dim=-1))
    return order_BK.gather(1, place_B[:, None])[:, 0]


def _largest(weights_BV: Tensor, mass_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The head of each row's weights in falling order, first come first among equals; and where
    they stand. It holds at least `mass`, whatever is equal to its last being left out."""
    if weights_BV.shape[1] > NUCLEUS:
        _, columns_BK = weights_BV.topk(NUCLEUS, dim=-1)
        columns_BK = columns_BK.sort(dim=-1).values
        largest_BK, order_BK = _falling(weights_BV.gather(1, columns_BK))
        surely_BK = largest_BK.masked_fill(largest_BK == largest_BK[:, -1:], 0.0)
        if bool((surely_BK.sum(dim=-1, keepdim=True) >= mass_B1).all()):
            return largest_BK, columns_BK.gather(1, order_BK)
    return _falling(weights_BV)


def _falling(x_BV: Tensor) -> tuple[Tensor, Tensor]:
    values_BV, order_BV = x_BV.sort(dim=-1, descending=True, stable=True)
    return values_BV, order_BV


def _locate(weights_BN: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first column whose cumulative weight exceeds the target, and how far into the column the
    target lies. Its weight is not zero."""
    cdf_BN = weights_BN.cumsum(dim=-1)
    total_B = cdf_BN[:, -1]
    # Rounding may carry the target to the total itself, past the last column that has weight.
    below_B = torch.nextafter(total_B, torch.zeros_like(total_B))
    target_B = torch.minimum(target_B.to(total_B), below_B)
    last = weights_BN.shape[-1] - 1
    place_B1 = torch.searchsorted(cdf_BN, target_B[:, None], right=True).clamp_max(last)
    before_B1 = cdf_BN.gather(1, (place_B1 - 1).clamp_min(0)).masked_fill(place_B1 == 0, 0.0)
    return place_B1[:, 0], target_B - before_B1[:, 0]


def _pick(blocks_BNK: Tensor, block_B: Tensor) -> Tensor:
    """One block of each row, B x K."""
    return blocks_BNK[torch.arange(len(block_B), device=block_B.device), block_B]
