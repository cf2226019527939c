"""Whether confidences mean what they say. Pure functions of N confidences and N outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nlakit.config import FrozenModel

NUM_BINS = 10


class Bin(FrozenModel):
    """The claims whose confidence lies in [low, high)."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean of their confidences."""
    accuracy: float
    """Share of them that is true."""


class Calibration(FrozenModel):
    """How far confidences can be taken at their word, on `count` claims."""

    ece: float
    """Expected calibration error: mean over claims of |accuracy - confidence| of their bin."""
    brier: float
    """Mean squared difference of confidence and outcome: 0 is best, 0.25 a coin's."""
    auroc: float | None
    """Chance that a true claim has more confidence than a false one; None without one of each."""
    count: int
    bins: tuple[Bin, ...]
    """The reliability diagram: ten bins of equal width, empty ones left out."""


def calibration(confidences: Sequence[float], outcomes: Sequence[bool]) -> Calibration | None:
    """The calibration of N confidences in [0, 1]; None for no claims."""
    if not confidences:
        return None
    p_N, y_N = np.asarray(confidences, dtype=float), np.asarray(outcomes, dtype=float)
    number_N = np.minimum((p_N * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = tuple(
        Bin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            count=int((number_N == number).sum()),
            confidence=float(p_N[number_N == number].mean()),
            accuracy=float(y_N[number_N == number].mean()),
        )
        for number in np.unique(number_N).tolist()
    )
    return Calibration(
        ece=sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / len(p_N),
        brier=float(((p_N - y_N) ** 2).mean()),
        auroc=auroc(p_N, y_N.astype(bool)),
        count=len(p_N),
        bins=bins,
    )


def auroc(scores_N: np.ndarray, outcomes_N: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted half; None unless both outcomes are there."""
    num_true, num_false = int(outcomes_N.sum()), int((~outcomes_N).sum())
    if not num_true or not num_false:
        return None
    values, inverse_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    assert len(values) == len(counts)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = middle_rank[inverse_N][outcomes_N].sum()
    return float((rank_sum - num_true * (num_true + 1) / 2) / (num_true * num_false))
