"""Losses of warm start and of joint RL, as pure functions. Masks are True where a token counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function


def token_logprobs(
    logits_BTV: Float[Tensor, "B T V"], ids_BT: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Log-probability of each id under its logits, in float32 whatever the logits' dtype."""
    flat_NV = logits_BTV.flatten(0, 1).float()
    return -F.cross_entropy(flat_NV, ids_BT.flatten(), reduction="none").view(ids_BT.shape)


def masked_mean(x_BT: Float[Tensor, "B T"], mask_BT: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean over the tokens that count, each with the same weight; 0 when none counts."""
    kept_BT = torch.where(mask_BT, x_BT, torch.zeros_like(x_BT))
    return kept_BT.sum() / mask_BT.sum().clamp_min(1)


def group_advantages(rewards_NG: Float[Tensor, "N G"], eps: float = 1e-4) -> Float[Tensor, "N G"]:
    """GRPO: each reward against its group's mean, over the group's deviation plus `eps`.

    The deviation is the population's, so that a group of one gives 0, not NaN.
    """
    centred_NG = rewards_NG - rewards_NG.mean(dim=1, keepdim=True)
    return centred_NG / (rewards_NG.std(dim=1, keepdim=True, correction=0) + eps)


def policy_loss(
    logprobs_BT: Float[Tensor, "B T"],
    old_BT: Float[Tensor, "B T"],
    advantages_B: Float[Tensor, " B"],
    mask_BT: Bool[Tensor, "B T"],
    clip: float | int | None,
) -> Float[Tensor, ""]:
    """Clipped policy-gradient loss, averaged over tokens.

    Args:
        old_BT: log-probabilities under the policy that sampled; carries no gradient.
        clip: the ratio counts only within `1 ± clip`; None leaves it free.
    """
    # Padding holds arbitrary numbers; exp of them must not reach the gradient.
    ratio_BT = (logprobs_BT - old_BT.detach()).masked_fill(~mask_BT, 0.0).exp()
    gain_BT = ratio_BT * advantages_B[:, None]
    if clip is not None:
        clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip) * advantages_B[:, None]
        gain_BT = torch.minimum(gain_BT, clipped_BT)
    return -masked_mean(gain_BT, mask_BT)


def kl_k3(
    logprobs_BT: Float[Tensor, "B T"], reference_BT: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Schulman's third estimate of KL(policy ‖ reference) per sampled token: never negative."""
    delta_BT = reference_BT - logprobs_BT
    return torch.expm1(delta_BT) - delta_BT


# -- the language head -----------------------------------------------------------------------------
CHUNK = {"cpu": 1 << 24}
"""Logits made at once in float32, where it is not `CHUNK_ON_ACCELERATORS`: 64 MB, so that they stay
near a CPU's cache between passes, and are rows enough for a product at full speed."""
CHUNK_ON_ACCELERATORS = 1 << 26


def head_logprobs(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    ids_N: Int[Tensor, " N"],
    kept: int,
) -> Float[Tensor, " N"]:
    """`log_softmax(hidden @ weight.T)` at one id a row, in float32.

    Logits are made a few rows at a time, and whole in float32 never. A fused cross-entropy as
    Liger's computes the gradient in the forward pass, and so needs to know the loss there; policy
    gradients weigh each token's log-probability later.

    Args:
        kept: how many logits may be kept for the gradient, in `hidden`'s precision; the others are
            computed again.
    """
    return _HeadLogprobs.apply(hidden_ND, weight_VD, ids_N, kept)  # pyright: ignore[reportReturnType]


class _HeadLogprobs(Function):
    """What is kept is `exp(logit - largest)`. The gradient is linear in it, so that its rows'
    factors go to the small operand of each product. What has one number a row is computed for all
    chunks together."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, ids_N: Tensor, kept: int) -> Tensor:
        wanted, weight_DV = any(ctx.needs_input_grad), weight_VD.t()
        chosen, largest, totals = [], [], []
        chunks: list[Tensor | None] = []
        for hidden, ids_C1 in _chunks(weight_VD, hidden_ND, ids_N[:, None]):
            logits = _logits(hidden, weight_DV)
            chosen.append(logits.gather(1, ids_C1))
            largest.append(logits.amax(dim=-1, keepdim=True))
            totals.append(logits.sub_(largest[-1]).exp_().sum(dim=-1, keepdim=True))
            kept -= logits.numel()
            chunks.append(logits.to(hidden.dtype) if wanted and kept >= 0 else None)
        total_N1, largest_N1 = torch.cat(totals), torch.cat(largest)
        log_total_N1 = total_N1.log() + largest_N1
        ctx.save_for_backward(hidden_ND, weight_VD, ids_N, largest_N1, total_N1)
        ctx.chunks = chunks
        return (torch.cat(chosen) - log_total_N1)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden_ND, weight_VD, ids_N, largest_N1, total_N1 = ctx.saved_tensors
        d_hidden_ND, weight_DV = torch.empty_like(hidden_ND), weight_VD.t()
        gradient_N1 = gradients[0][:, None]
        factor_N1 = -gradient_N1 / total_N1
        d_weight_VD = None
        if ctx.needs_input_grad[1]:
            # Chunks add up in float32: a sum of hundreds in bfloat16 would lose most of them.
            d_weight_VD = torch.zeros_like(weight_VD, dtype=factor_N1.dtype)
        parts = _chunks(weight_VD, hidden_ND, largest_N1, factor_N1, d_hidden_ND)
        for (hidden, largest, factor, d_hidden), weights in zip(parts, ctx.chunks, strict=True):
            if weights is None:
                weights = _logits(hidden, weight_DV).sub_(largest).exp_().to(hidden.dtype)
            torch.mm(weights, weight_VD, out=d_hidden).mul_(factor)
            if d_weight_VD is not None:
                d_weight_VD += torch.mm(weights.t(), (hidden * factor).to(hidden.dtype))
        d_hidden_ND.addcmul_(weight_VD.index_select(0, ids_N), gradient_N1.to(hidden_ND.dtype))
        if d_weight_VD is not None:
            d_weight_VD.index_add_(0, ids_N, hidden_ND * gradient_N1)
        return d_hidden_ND, d_weight_VD, None, None


def _logits(hidden_CD: Tensor, weight_DV: Tensor) -> Tensor:
    """Of a chunk, in float32 at least."""
    logits_CV = torch.mm(hidden_CD, weight_DV)
    return logits_CV.float() if logits_CV.dtype.itemsize == 2 else logits_CV


def _chunks(weight_VD: Tensor, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = CHUNK.get(weight_VD.device.type, CHUNK_ON_ACCELERATORS)
    rows = max(1, size // len(weight_VD))
    return zip(*(column.split(rows) for column in columns), strict=True)
