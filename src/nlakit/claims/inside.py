"""Whether a reading is of an activation like those that a calibrator knows.

A verbalizer is as sure of itself on text and vectors that it was never trained on. There its claims
are wrong, so a claim's confidence is its calibrated chance times the chance that the reading lies
inside. The features: the fidelity of the explanation, how surprised the verbalizer was by its own
words, the norm of the activation, and how far it lies from the training activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor, cosine_similarity

from nlakit.config import FrozenModel
from nlakit.engines.base import Completion
from nlakit.errors import InputError

from .distance import ActivationSpread

LIMITS = ((0.9, 0.01), (0.5, 0.05))
"""Confidence, and the share of the claims outside that may reach it.

Half of what is promised (2 % and 10 %): claims of one text stand or fall together, so the share of
a few hundred texts scatters more than that of as many independent claims.
"""
LOWEST_FIDELITY, FARTHEST = -0.5, 4.0
"""Features are cut here: beyond it nothing was fitted."""


class ReadingFeatures(NamedTuple):
    """What is known of one reading, whatever it claims.

    Attributes:
        logprob: mean of its tokens', nats.
        log_norm, cosine: of the activation, and with the training mean; None where it is not at
            hand.
        along, beside: its distance from the training activations (`distance.Distance`); None where
            nobody knows how they are spread.
    """

    fidelity: float
    logprob: float
    log_norm: float | None = None
    cosine: float | None = None
    along: float | None = None
    beside: float | None = None


def reading_features(
    completions: Sequence[Completion],
    fidelities: Sequence[float],
    mean_D: Float[Tensor, " D"],
    vectors_ND: Float[Tensor, "N D"] | None,
    spread: ActivationSpread | None = None,
) -> list[ReadingFeatures]:
    """The features of N readings.

    Args:
        spread: of the activations that the gate was fitted inside of.
    """
    surprises = [sum(each.logprobs) / max(1, len(each.logprobs)) for each in completions]
    if vectors_ND is None:
        return [ReadingFeatures(*row) for row in zip(fidelities, surprises, strict=True)]
    own_ND = vectors_ND.float().cpu()
    norms = own_ND.norm(dim=-1).clamp_min(1e-6).log().tolist()
    cosines = cosine_similarity(own_ND, mean_D.float().cpu()[None], dim=-1).tolist()
    distances = [()] * len(own_ND) if spread is None else spread.distances(own_ND)
    rows = zip(fidelities, surprises, norms, cosines, distances, strict=True)
    return [ReadingFeatures(*row, *distance) for *row, distance in rows]


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

    def odds(self, reading: ReadingFeatures) -> float:
        """Log-odds that a reading lies inside; what is not known of it counts as the middle."""
        terms = _terms(_standard(reading, self.center, self.spread))
        return self.bias + sum(w * x for w, x in zip(self.weights, terms, strict=True))

    def chance(self, reading: ReadingFeatures) -> float:
        """The chance that a reading lies inside."""
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, self.odds(reading)))))


class OutsideReading(NamedTuple):
    """A reading outside, and what its claims' confidences would be without a gate."""

    features: ReadingFeatures
    confidences: tuple[float, ...]


def fit_inside(
    inside: Sequence[ReadingFeatures],
    *kinds: tuple[Sequence[ReadingFeatures], Sequence[OutsideReading]],
) -> Inside:
    """The gate between readings of held-out documents and of anything else.

    Args:
        kinds: per kind of outside, the readings that shape the boundary, and others of it that
            decide how far it is moved: no kind lets more claims past than `LIMITS`, however many
            there are of it.

    Raises:
        InputError: there are none of one of them.
    """
    outside = [each for fitted, _ in kinds for each in fitted]
    held = [each for _, others in kinds for each in others]
    if not inside or not outside or not held:
        raise InputError(
            f"A gate needs readings inside, outside, and outside ones to hold it against; found "
            f"{len(inside)}, {len(outside)} and {len(held)}."
        )
    gate = _boundary(inside, outside)
    threshold = max(_threshold(gate, others) for _, others in kinds)
    # Where no claim outside is sure of itself, there is nothing to move the boundary for.
    moved = gate.bias - (threshold if math.isfinite(threshold) else 0.0)
    return gate.model_copy(update={"bias": moved, "outside": len(outside) + len(held)})


def _boundary(inside: Sequence[ReadingFeatures], outside: Sequence[ReadingFeatures]) -> Inside:
    """Before it is moved."""
    from sklearn.linear_model import LogisticRegression

    raw_NF = np.array([_raw(each) for each in inside], dtype=float)
    center, spread = raw_NF.mean(0), np.maximum(raw_NF.std(0), 1e-6)
    design = np.array([_terms(_standard(each, center, spread)) for each in (*inside, *outside)])
    is_inside = np.array([True] * len(inside) + [False] * len(outside))
    fitted = LogisticRegression(C=10.0, max_iter=5000).fit(design, is_inside)
    return Inside(
        center=tuple(center.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(fitted.coef_[0].tolist()),
        bias=float(fitted.intercept_[0]),
        inside=len(inside),
        outside=len(outside),
    )


def _threshold(gate: Inside, readings: Sequence[OutsideReading]) -> float:
    """Odds to take off, so that the claims of readings of one kind keep within `LIMITS`.

    Split conformal prediction (Vovk et al. 2005): none of these readings shaped the boundary, so
    what a claim of another reading needs is as likely to be first, second or last among theirs.
    Given the ⌈(1 - share)(n + 1)⌉-th of what n claims need, it reaches the confidence with a chance
    of at most `share`.
    """
    odds = [gate.odds(each.features) for each in readings]
    return max(
        _conformal(sorted(_needed(odds, readings, confidence)), share)
        for confidence, share in LIMITS
    )


def _needed(
    odds: Sequence[float], readings: Sequence[OutsideReading], confidence: float
) -> Iterator[float]:
    """Per claim the odds to take off until it falls to a confidence; -inf where it is below."""
    for own, reading in zip(odds, readings, strict=True):
        for each in reading.confidences:
            # Given `chance` by the gate, it has just that confidence: each * chance = confidence.
            chance = confidence / each
            yield own - math.log(chance / (1 - chance)) if chance < 1 else -math.inf


def _conformal(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return -math.inf
    return ordered[min(len(ordered), math.ceil((1 - share) * (len(ordered) + 1))) - 1]


def _raw(reading: ReadingFeatures) -> tuple[float, ...]:
    """The features that are known of what a gate is fitted on."""
    assert reading.log_norm is not None, "fitted without vectors"
    known = tuple(each for each in reading[1:] if each is not None)
    return max(LOWEST_FIDELITY, reading.fidelity), *known


def _standard(
    reading: ReadingFeatures, center: Sequence[float], spread: Sequence[float]
) -> list[float]:
    """As many features as the gate was fitted on: an older one knows no distances."""
    found = (max(LOWEST_FIDELITY, reading.fidelity), *reading[1 : len(center)])
    return [
        0.0 if value is None else max(-FARTHEST, min(FARTHEST, (value - middle) / width))
        for value, middle, width in zip(found, center, spread, strict=True)
    ]


def _terms(features: Sequence[float]) -> list[float]:
    """The features, and the product of any two."""
    products = [a * b for i, a in enumerate(features) for b in features[i:]]
    return [*features, *products]
