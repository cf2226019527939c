"""Bootstrap intervals that resample whole documents: rows of one document are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nlakit.errors import InputError


class Interval(NamedTuple):
    """Ends of an interval, lower first."""

    low: float
    high: float


def ratio_interval(
    numerator_N: Float[Tensor, " N"],
    denominator_N: Float[Tensor, " N"],
    documents: Sequence[str],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `sum(numerator) / sum(denominator)` over resampled documents.

    As many documents as there are distinct ids in `documents` are drawn with replacement, each with
    all its rows. A draw whose denominator is 0 has no ratio and is left out.

    Raises:
        InputError: fewer than two documents, from which no interval can be had.
    """
    names, cluster_N = np.unique(np.asarray(documents), return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"An interval over documents needs at least 2 of them, found {len(names)}."
        )
    # Sums per document are all that is needed, so a sample costs one product.
    top_C = np.bincount(cluster_N, weights=numerator_N.double().numpy())
    bottom_C = np.bincount(cluster_N, weights=denominator_N.double().numpy())
    uniform = np.full(len(names), 1 / len(names))
    weights_SC = np.random.default_rng(seed).multinomial(len(names), uniform, size=samples)
    bottom_S = weights_SC @ bottom_C
    defined_S = bottom_S != 0
    ratios_S = (weights_SC @ top_C)[defined_S] / bottom_S[defined_S]
    low, high = np.quantile(ratios_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def fve_interval(
    mse_N: Float[Tensor, " N"],
    variance_N: Float[Tensor, " N"],
    documents: Sequence[str],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of `1 - sum(mse) / sum(variance)`, by document. Raises as `ratio_interval` does."""
    low, high = ratio_interval(
        mse_N, variance_N, documents, samples=samples, level=level, seed=seed
    )
    return Interval(1 - high, 1 - low)
