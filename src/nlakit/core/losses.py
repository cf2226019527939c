"""Losses of warm start and of joint RL, as pure functions. Masks are True where a token counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
