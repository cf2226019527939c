"""Whether a reading is of an activation like those that a calibrator knows.

A verbalizer is as sure of itself on text and vectors that it was never trained on. There its claims
are wrong, so a claim's confidence is its calibrated chance times the chance that the reading lies
inside. The features: the fidelity of the explanation, the norm of the activation and its cosine
with the training mean (how far it is from the training activations), and how surprised the
verbalizer was by its own words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor, cosine_similarity

from nlakit.config import FrozenModel
from nlakit.engines.base import Completion
from nlakit.errors import InputError

OUTSIDE_SHARE = 0.02
"""Of the outside readings of each kind that the chance is fitted on, those given 0.5 or more."""
SLOPE = 1.5
"""How much steeper than the fitted odds the chance goes up: what lies far inside is not doubted."""
LOWEST_FIDELITY, FARTHEST = -0.5, 4.0
"""Features are cut here: beyond it nothing was fitted."""


class ReadingFeatures(NamedTuple):
    """What is known of one reading, whatever it claims.

    Attributes:
        log_norm, cosine: of the activation, and with the training mean; None where it is not at
            hand.
        logprob: mean of its tokens', nats.
    """

    fidelity: float
    logprob: float
    log_norm: float | None = None
    cosine: float | None = None


def reading_features(
    completions: Sequence[Completion],
    fidelities: Sequence[float],
    mean_D: Float[Tensor, " D"],
    vectors_ND: Float[Tensor, "N D"] | None,
) -> list[ReadingFeatures]:
    """The features of N readings."""
    norms: Sequence[float | None] = [None] * len(completions)
    cosines: Sequence[float | None] = norms
    if vectors_ND is not None:
        own_ND = vectors_ND.float().cpu()
        norms = own_ND.norm(dim=-1).clamp_min(1e-6).log().tolist()
        cosines = cosine_similarity(own_ND, mean_D.float().cpu()[None], dim=-1).tolist()
    rows = zip(completions, fidelities, norms, cosines, strict=True)
    return [
        ReadingFeatures(fidelity, sum(each.logprobs) / max(1, len(each.logprobs)), norm, cosine)
        for each, fidelity, norm, cosine in rows
    ]


class Inside(FrozenModel):
    """Logistic regression on the features, their squares and their products."""

    center: tuple[float, ...]
    spread: tuple[float, ...]
    """Of each feature over the readings inside."""
    weights: tuple[float, ...]
    bias: float
    inside: int
    outside: int
    """Readings that it was fitted on."""

    def chance(self, reading: ReadingFeatures) -> float:
        """The chance that a reading lies inside; what is not known of it counts as the middle."""
        terms = _terms(_standard(reading, self.center, self.spread))
        total = self.bias + sum(w * x for w, x in zip(self.weights, terms, strict=True))
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, total))))


def fit_inside(inside: Sequence[ReadingFeatures], *kinds: Sequence[ReadingFeatures]) -> Inside:
    """The gate between readings of held-out documents and of anything else.

    Args:
        kinds: readings outside, by what they are of: each kind is let in as rarely as the others,
            however many there are of it.

    Raises:
        InputError: there are none of one of them.
    """
    outside = [each for kind in kinds for each in kind]
    if not inside or not outside:
        raise InputError(
            f"A gate needs readings inside and outside, found {len(inside)} and {len(outside)}."
        )
    from sklearn.linear_model import LogisticRegression

    raw_NF = np.array([_raw(each) for each in inside], dtype=float)
    center, spread = raw_NF.mean(0), np.maximum(raw_NF.std(0), 1e-6)
    design = np.array([_terms(_standard(each, center, spread)) for each in (*inside, *outside)])
    is_inside = np.array([True] * len(inside) + [False] * len(outside))
    fitted = LogisticRegression(C=10.0, max_iter=5000).fit(design, is_inside)
    odds = fitted.decision_function(design[~is_inside])
    ends = np.cumsum([len(kind) for kind in kinds])[:-1]
    parts = [part for part in np.split(odds, ends) if len(part)]
    threshold = max(float(np.quantile(part, 1 - OUTSIDE_SHARE)) for part in parts)
    return Inside(
        center=tuple(center.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(float(SLOPE * weight) for weight in fitted.coef_[0]),
        bias=float(SLOPE * (fitted.intercept_[0] - threshold)),
        inside=len(inside),
        outside=len(outside),
    )


def _raw(reading: ReadingFeatures) -> tuple[float, ...]:
    assert reading.log_norm is not None and reading.cosine is not None, "fitted without vectors"
    fidelity = max(LOWEST_FIDELITY, reading.fidelity)
    return fidelity, reading.logprob, reading.log_norm, reading.cosine


def _standard(
    reading: ReadingFeatures, center: Sequence[float], spread: Sequence[float]
) -> list[float]:
    found = (max(LOWEST_FIDELITY, reading.fidelity), *reading[1:])
    return [
        0.0 if value is None else max(-FARTHEST, min(FARTHEST, (value - middle) / width))
        for value, middle, width in zip(found, center, spread, strict=True)
    ]


def _terms(features: Sequence[float]) -> list[float]:
    """The features, and the product of any two."""
    products = [a * b for i, a in enumerate(features) for b in features[i:]]
    return [*features, *products]
