"""Reward terms of joint RL: small pure functions of one rollout batch, each N x G."""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruction(mse_NG: Tensor, floor: float = 1e-3) -> Tensor:
    """−log MSE, the paper's reward: each halving of the error is worth the same."""
    return -mse_NG.clamp_min(floor).log()


def length_cost(num_tokens_NG: Tensor, allowance: int, cost: float) -> Tensor:
    """A hinge: free up to `allowance` tokens, then `cost` for each."""
    return -cost * (num_tokens_NG - allowance).clamp_min(0).float()


def with_unclosed(reward_NG: Tensor, closed_NG: Tensor, unclosed_reward: float) -> Tensor:
    """Explanations cut off by the length cap get a fixed reward, whatever they say."""
    return torch.where(closed_NG, reward_NG, torch.full_like(reward_NG, unclosed_reward))
