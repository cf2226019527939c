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


def shared_reconstruction(
    own_mse_NG: Tensor, other_mse_NG: Tensor, share: float, floor: float = 1e-3
) -> Tensor:
    """`reconstruction` by two readers: `share` of it by one that does not learn with the AV.

    A word that only the pair's own AR understands earns `1 - share` of what a plain one does.

    Args:
        own_mse_NG: of the AR in training.
        other_mse_NG: of an AR that was trained on labels only, and is frozen.
    """
    own_NG, other_NG = reconstruction(own_mse_NG, floor), reconstruction(other_mse_NG, floor)
    return (1 - share) * own_NG + share * other_NG


def writing_quality(
    logprob_NG: Tensor, num_tokens_NG: Tensor, enough: float, cost: float
) -> Tensor:
    """A hinge on how likely a language model finds the words: free from `enough` nats a token up.

    Below that `cost` for each nat a token: an explanation need not be the likeliest, only language.

    Args:
        logprob_NG: of the explanation's words, summed, without the vector; under the target.
        num_tokens_NG: how many tokens those are; of none the cost is 0.
        enough: mean log-probability of a token that is good enough, below 0.
    """
    each_NG = logprob_NG / num_tokens_NG.clamp_min(1)
    missing_NG = (enough - each_NG).clamp_min(0)
    return -cost * torch.where(num_tokens_NG > 0, missing_NG, torch.zeros_like(missing_NG))


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
