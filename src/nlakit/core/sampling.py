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

JUST_BELOW = 1 - 2.0**-24
"""A float32 times this is the next smaller one."""

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
    if num_rows <= rows:
        return _draw(logits_BV, uniform_B, temperature, top_p)
    pairs = zip(logits_BV.split(rows), uniform_B.split(rows), strict=True)
    parts = [_draw(logits, uniform, temperature, top_p) for logits, uniform in pairs]
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
    mass = _Mass.of(weights_BV)
    log_total_B1 = largest_B1 + mass.total_B1.log()
    if temperature < GREEDY_BELOW:
        ids_B1 = _argmax(logits_BV)[:, None]
    else:
        if temperature != 1:
            torch.sub(logits_BV, largest_B1, out=weights_BV).div_(temperature).exp_()
            mass = _Mass.of(weights_BV)
        if uniform_B.dtype != weights_BV.dtype:
            uniform_B = uniform_B.to(weights_BV.dtype)
        draw = _draw_from_all if top_p >= 1 else _draw_from_nucleus
        # NaN weights lead past the end, and an index out of range would end a GPU's process.
        ids_B1 = draw(weights_BV, mass, uniform_B[:, None], top_p)
        ids_B1 = ids_B1.clamp_max_(logits_BV.shape[1] - 1)
    logprobs_B1 = logits_BV.gather(1, ids_B1) - log_total_B1
    return Drawn(ids_B1[:, 0], logprobs_B1[:, 0])


class _Mass(NamedTuple):
    """Weights in blocks, B x N x K, the sum of each block, B x N, and of each row."""

    blocks_BNK: Tensor
    sums_BN: Tensor
    total_B1: Tensor

    @classmethod
    def of(cls, weights_BV: Tensor) -> _Mass:
        """Of some weights as they are now."""
        blocks_BNK = _blocks(weights_BV, 0.0)
        sums_BN = blocks_BNK.sum(dim=-1)
        return cls(blocks_BNK, sums_BN, sums_BN.sum(dim=-1, keepdim=True))


def _blocks(x_BV: Tensor, fill: float) -> Tensor:
    """Columns in blocks, B x N x K; the last one is filled up."""
    missing = -x_BV.shape[1] % BLOCK
    return (F.pad(x_BV, (0, missing), value=fill) if missing else x_BV).unflatten(1, (-1, BLOCK))


def _argmax(x_BV: Tensor) -> Tensor:
    """The first largest column: of the first block that has it, since `argmax` is a slow pass."""
    blocks_BNK = _blocks(x_BV, -torch.inf)
    block_B = blocks_BNK.amax(dim=-1).argmax(dim=-1)
    return block_B * BLOCK + _pick(blocks_BNK, block_B).argmax(dim=-1)


def _draw_from_all(_: Tensor, mass: _Mass, uniform_B1: Tensor, __: float | int) -> Tensor:
    block_B1, rest_B1 = _locate(mass.sums_BN, uniform_B1 * mass.total_B1)
    within_B1, _rest = _locate(_pick(mass.blocks_BNK, block_B1[:, 0]), rest_B1)
    return block_B1 * BLOCK + within_B1


def _draw_from_nucleus(
    weights_BV: Tensor, mass: _Mass, uniform_B1: Tensor, top_p: float | int
) -> Tensor:
    mass_B1 = max(top_p, 1e-9) * (1 - ROUNDING) * mass.total_B1
    largest_BK, order_BK = _largest(weights_BV, mass_B1)
    before_BK = largest_BK.cumsum(dim=-1) - largest_BK
    before_BK[:, 0] = 0.0
    nucleus_BK = largest_BK.masked_fill(before_BK >= mass_B1, 0.0)
    place_B1, _rest = _locate(nucleus_BK, uniform_B1 * nucleus_BK.sum(dim=-1, keepdim=True))
    return order_BK.gather(1, place_B1)


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


def _locate(weights_BN: Tensor, target_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The first column whose cumulative weight exceeds the target, and how far into the column the
    target lies, B x 1 each. The column's weight is not zero."""
    # A zero before the sums: what comes before a column stands where the column was looked for.
    cdf_BN = weights_BN.new_zeros(len(weights_BN), weights_BN.shape[1] + 1)
    torch.cumsum(weights_BN, dim=-1, out=cdf_BN[:, 1:])
    # Rounding may carry the target to the total itself, past the last column that has weight.
    target_B1 = torch.minimum(target_B1, cdf_BN[:, -1:] * JUST_BELOW)
    place_B1 = torch.searchsorted(cdf_BN, target_B1, right=True).sub_(1)
    # NaN weights lead past the end, and an index out of range would end a GPU's process.
    place_B1 = place_B1.clamp_(0, weights_BN.shape[1] - 1)
    return place_B1, target_B1 - cdf_BN.gather(1, place_B1)


def _pick(blocks_BNK: Tensor, block_B: Tensor) -> Tensor:
    """One block of each row, B x K."""
    return blocks_BNK[torch.arange(len(block_B), device=block_B.device), block_B]
