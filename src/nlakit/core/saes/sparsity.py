"""Activation functions of sparse autoencoders: which latents are active, and how strongly.

Each maps pre-activations N x M to latents N x M that are 0 or above. The straight-through
estimators of JumpReLU are those of Rajamanoharan et al. 2024 (2407.14435): a step has no gradient,
so its threshold gets the one of a rectangle of width `bandwidth` around it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def top_k(pre_NM: Float[Tensor, "*N M"], k: int) -> Float[Tensor, "*N M"]:
    """The k largest of each row, those below 0 as 0."""
    values_NK, index_NK = pre_NM.relu().topk(min(k, pre_NM.shape[-1]), dim=-1, sorted=False)
    return torch.zeros_like(pre_NM).scatter(-1, index_NK, values_NK)


def batch_top_k(pre_NM: Float[Tensor, "N M"], k: int) -> Float[Tensor, "N M"]:
    """The N · k largest of the whole batch: k a row on average, more where a row needs more."""
    flat = pre_NM.relu().flatten()
    values, index = flat.topk(min(k * len(pre_NM), len(flat)), sorted=False)
    return torch.zeros_like(flat).scatter(0, index, values).view_as(pre_NM)


def smallest_active(latents_NM: Float[Tensor, "N M"]) -> Float[Tensor, ""]:
    """The smallest latent above 0; 0 where none is. Its running mean is the threshold that
    stands in for the batch when a BatchTopK autoencoder reads a single row."""
    active = latents_NM[latents_NM > 0]
    return active.min() if len(active) else latents_NM.new_zeros(())


def jump_relu(
    pre_NM: Float[Tensor, "*N M"], threshold_M: Float[Tensor, " M"] | Float[Tensor, ""]
) -> Float[Tensor, "*N M"]:
    """Pre-activations that are above the threshold (strictly, and above 0), and 0 elsewhere."""
    return pre_NM.relu() * (pre_NM > threshold_M)


def gated(
    projected_NM: Float[Tensor, "*N M"],
    b_gate_M: Float[Tensor, " M"],
    r_mag_M: Float[Tensor, " M"],
    b_mag_M: Float[Tensor, " M"],
) -> Float[Tensor, "*N M"]:
    """One bias decides whether a latent is active, another with a gain how strongly.

    Args:
        projected_NM: the input through `W_enc`, without a bias.
    """
    magnitude_NM = (projected_NM * r_mag_M.exp() + b_mag_M).relu()
    return magnitude_NM * (projected_NM + b_gate_M > 0)


def trained_jump_relu(
    pre_NM: Float[Tensor, "N M"], threshold_M: Float[Tensor, " M"], bandwidth: float
) -> Float[Tensor, "N M"]:
    """`jump_relu`, with -(θ/ε) K((z-θ)/ε) as gradient of the threshold."""
    return _JumpRelu.apply(pre_NM, threshold_M, bandwidth)


def trained_l0(
    pre_NM: Float[Tensor, "N M"], threshold_M: Float[Tensor, " M"], bandwidth: float
) -> Float[Tensor, " N"]:
    """Active latents of each row, with -(1/ε) K((z-θ)/ε) as gradient of the threshold."""
    return _Step.apply(pre_NM, threshold_M, bandwidth).sum(-1)


def _inside(pre_NM: Tensor, threshold_M: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel K: 1 within half a bandwidth of the threshold."""
    return ((pre_NM - threshold_M).abs() < bandwidth / 2).to(pre_NM.dtype)


class _JumpRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_NM: Tensor, threshold_M: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_NM, threshold_M)
        ctx.bandwidth = bandwidth
        return jump_relu(pre_NM, threshold_M)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient_NM,) = gradients
        pre_NM, threshold_M = ctx.saved_tensors
        inside_NM = _inside(pre_NM, threshold_M, ctx.bandwidth)
        of_threshold_M = (-threshold_M / ctx.bandwidth * inside_NM * gradient_NM).sum(0)
        active_NM = (pre_NM > threshold_M) & (pre_NM > 0)
        return gradient_NM * active_NM, of_threshold_M, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_NM: Tensor, threshold_M: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_NM, threshold_M)
        ctx.bandwidth = bandwidth
        return ((pre_NM > threshold_M) & (pre_NM > 0)).to(pre_NM.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (gradient_NM,) = gradients
        pre_NM, threshold_M = ctx.saved_tensors
        inside_NM = _inside(pre_NM, threshold_M, ctx.bandwidth)
        return None, (-inside_NM / ctx.bandwidth * gradient_NM).sum(0), None
