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
    ratios_S = _resampled(documents, samples, seed, (numerator_N, denominator_N))[0]
    return _percentiles(ratios_S, level)


def difference_interval(
    ours_2N: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    theirs_2N: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    documents: Sequence[str],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of one `sum(numerator) / sum(denominator)` less another, paired.

    Both are over the same N rows, and each draw of documents gives both: what makes a document hard
    for one and for the other does not widen the interval. Else as `ratio_interval`.
    """
    ours_S, theirs_S = _resampled(documents, samples, seed, ours_2N, theirs_2N)
    return _percentiles(ours_S - theirs_S, level)


def _resampled(
    documents: Sequence[str],
    samples: int,
    seed: int,
    *ratios_2N: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
) -> list[np.ndarray]:
    """Each ratio in each draw of documents; a draw in which one has no value is left out of all."""
    names, cluster_N = np.unique(np.asarray(documents), return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"An interval over documents needs at least 2 of them, found {len(names)}."
        )
    uniform = np.full(len(names), 1 / len(names))
    weights_SC = np.random.default_rng(seed).multinomial(len(names), uniform, size=samples)

    def drawn(row_N: Tensor) -> np.ndarray:
        # Sums per document are all that is needed, so a sample costs one product.
        return weights_SC @ np.bincount(cluster_N, weights=row_N.double().numpy())

    sums = [(drawn(top_N), drawn(bottom_N)) for top_N, bottom_N in ratios_2N]
    defined_S = np.all([bottom_S != 0 for _, bottom_S in sums], axis=0)
    return [top_S[defined_S] / bottom_S[defined_S] for top_S, bottom_S in sums]


def _percentiles(values_S: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values_S, [(1 - level) / 2, (1 + level) / 2])
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
