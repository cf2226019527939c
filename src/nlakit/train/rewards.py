"""Reward terms of joint RL: small pure functions, of one rollout batch (N x G) where not said."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

LOWEST_LOG_ODDS = -1.5


def reconstruction(mse_NG: Tensor, floor: float = 1e-3) -> Tensor:
    """−log MSE, the paper's reward: each halving of the error is worth the same."""
    return -mse_NG.clamp_min(floor).log()


def length_cost(num_tokens_NG: Tensor, allowance: int, cost: float) -> Tensor:
    """A hinge: free up to `allowance` tokens, then `cost` for each."""
    return -cost * (num_tokens_NG - allowance).clamp_min(0).float()


def claim_log_odds(probabilities: Iterable[float], neutral: float) -> float:
    """What one explanation's claims are worth to a judge: the sum of log(p / neutral), p at most 1.

    A claim less likely than `neutral` costs more than silence, at most 1.5; a likelier one gains,
    at most −log(neutral).
    """
    return sum(
        max(LOWEST_LOG_ODDS, math.log(min(max(p, 1e-9), 1) / neutral)) for p in probabilities
    )


def with_unclosed(reward_NG: Tensor, closed_NG: Tensor, unclosed_reward: float) -> Tensor:
    """Explanations cut off by the length cap get a fixed reward, whatever they say."""
    return torch.where(closed_NG, reward_NG, torch.full_like(reward_NG, unclosed_reward))
