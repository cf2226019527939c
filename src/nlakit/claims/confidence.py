"""How likely each claim of an explanation is true, from what the models themselves give away.

The features need no knowledge of the world: how probable the verbalizer found the claim's words,
how much the vector added to that, how faithful the explanation is as a whole; and, where somebody
paid for them, agreement over samples and recurrence at neighbouring tokens. A logistic calibrator,
fitted on held-out documents whose truth is known, turns them into a number in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claim import Claim
from nlakit.config import FrozenModel, describe_errors, validate_json, write_text_atomic
from nlakit.engines.base import Completion
from nlakit.errors import CheckpointError, InputError
from nlakit.models.verbalizer import OPEN_TAG, Verbalizer
from nlakit.reading import ReadClaim

from .distance import ActivationSpread
from .inside import Inside, ReadingFeatures, reading_features
from .probability import claim_tokens
from .registry import claim_system
from .system import ClaimSystem

CONFIDENCE_NAME = "calibrator.json"
ROWS_PER_PASS = 64
LOWEST_LOGIT, HIGHEST_LOGIT = -12.0, 9.0
MIN_KIND_CLAIMS = 20


@dataclass(frozen=True)
class ClaimFeatures:
    """What is known of a claim before anybody looks at the text.

    Attributes:
        claim: its kind, value and place in the explanation.
        logprob: nats, of the claim in any wording, given the vector (`ClaimTokens.logprob`).
        lowest: nats, of the least likely token of its words.
        information: nats that the vector adds: `logprob` less the same given the mean vector.
        fidelity: of the whole explanation.
        agreement: share of other samples of the vector that claim the same; None: not measured.
        recurrence: share of the neighbouring tokens' readings that do; None: not measured.
    """

    claim: Claim
    logprob: float
    lowest: float
    information: float
    fidelity: float
    agreement: float | None = None
    recurrence: float | None = None

    def number(self, name: str) -> float:
        """One feature, on the scale that the calibrator adds up.

        Raises:
            InputError: a feature that was not measured.
        """
        if name == "logit":
            return logit(self.logprob)
        if name == "probability":
            return min(1.0, math.exp(self.logprob))
        if name == "lowest":
            return logit(self.lowest)
        value = getattr(self, name)
        if value is None:
            raise InputError(f"The calibrator needs each claim's {name}, which was not measured.")
        return float(value)


READING_FEATURES = ("logit", "probability", "lowest", "information", "fidelity")
"""Those that a reading has at no cost but one pass of the verbalizer over its own words."""


def logit(logprob: float) -> float:
    """Log-odds of a probability given as its logarithm, cut to what a sample could tell apart."""
    if logprob >= -1e-9:
        return HIGHEST_LOGIT
    found = logprob - math.log(-math.expm1(logprob))
    return min(HIGHEST_LOGIT, max(LOWEST_LOGIT, found))


class Calibrator(FrozenModel):
    """Logistic regression: `sigmoid(bias + offset of the kind + weights · standardised features)`.

    Fitted on claims whose truth is known: exactly in the storyworld; for a real model, by whoever
    labelled them, and then no better than those labels.
    """

    features: tuple[str, ...]
    center: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    kinds: dict[str, float] = {}
    """Added for a claim of that kind; 0 for a kind that was rare or not there."""
    claims: int
    """How many it was fitted on."""

    def confidence(self, features: ClaimFeatures) -> float:
        """The chance that a claim is true."""
        total = self.bias + self.kinds.get(features.claim.kind, 0.0)
        rows = zip(self.features, self.center, self.spread, self.weights, strict=True)
        for name, center, spread, weight in rows:
            total += weight * (features.number(name) - center) / spread
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, total))))


def fit_calibrator(
    features: Sequence[ClaimFeatures],
    outcomes: Sequence[bool],
    names: Sequence[str] = READING_FEATURES,
) -> Calibrator:
    """The calibrator of N claims of known truth.

    Raises:
        InputError: without both true and false claims there is nothing to learn.
    """
    if len(set(outcomes)) < 2:
        raise InputError(
            f"A calibrator needs true and false claims; all {len(outcomes)} are alike. "
            "Give more documents."
        )
    from sklearn.linear_model import LogisticRegression

    x_NF = np.array([[each.number(name) for name in names] for each in features])
    center_F, spread_F = x_NF.mean(0), np.maximum(x_NF.std(0), 1e-6)
    kinds = _common_kinds(features)
    is_kind_NK = np.array([[each.claim.kind == kind for kind in kinds] for each in features])
    design = np.hstack([(x_NF - center_F) / spread_F, is_kind_NK.reshape(len(features), -1)])
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(design, np.asarray(outcomes))
    weights = [float(weight) for weight in fitted.coef_[0]]
    return Calibrator(
        features=tuple(names),
        center=tuple(center_F.tolist()),
        spread=tuple(spread_F.tolist()),
        weights=tuple(weights[: len(names)]),
        bias=float(fitted.intercept_[0]),
        kinds=dict(zip(kinds, weights[len(names) :], strict=True)),
        claims=len(features),
    )


def _common_kinds(features: Sequence[ClaimFeatures]) -> list[str]:
    found = [each.claim.kind for each in features]
    return sorted(kind for kind in set(found) if found.count(kind) >= MIN_KIND_CLAIMS)


class ClaimConfidence(FrozenModel):
    """`calibrator.json`: the calibrators of a pair, and where they come from."""

    format_version: Literal[2] = 2
    greedy: Calibrator
    """For explanations of temperature 0."""
    sampled: Calibrator
    """For drawn ones."""
    greedy_inside: Inside | None = None
    sampled_inside: Inside | None = None
    """The chance that a reading is like those fitted on; None: nobody asked what lies outside."""
    spread: ActivationSpread | None = None
    """Of the activations inside."""
    source: str
    """The documents of which it was known what is true."""
    claims: str
    """The claim system that finds claims in an explanation."""
    split: str = "heldout"
    seed: int
    """Of the documents it was fitted on: no report of this seed may use it."""
    documents: int

    @classmethod
    def load(cls, directory: str | Path) -> ClaimConfidence | None:
        """The one beside a pair; None where there is none. Raises `CheckpointError` for another."""
        path = Path(directory) / CONFIDENCE_NAME
        if not path.is_file():
            return None
        try:
            return validate_json(cls, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
        except pydantic.ValidationError as error:
            raise CheckpointError(describe_errors(cls, error, str(path))) from error

    def save(self, directory: str | Path) -> Path:
        """Write it beside a pair; returns the path."""
        path = Path(directory) / CONFIDENCE_NAME
        write_text_atomic(path, self.model_dump_json(indent=2) + "\n")
        return path

    def calibrator(self, temperature: float) -> Calibrator:
        """The one for explanations of a temperature."""
        return self.sampled if temperature > 0 else self.greedy

    def chances(self, readings: Sequence[ReadingFeatures], temperature: float) -> list[float]:
        """Per reading the chance that it lies inside; 1 where nobody asked."""
        gate = self.sampled_inside if temperature > 0 else self.greedy_inside
        return [1.0 if gate is None else gate.chance(each) for each in readings]

    def score(
        self,
        verbalizer: Verbalizer,
        mean_D: Float[Tensor, " D"],
        completions: Sequence[Completion],
        fidelities: Sequence[float],
        temperature: float = 0.0,
        vectors_ND: Float[Tensor, "N D"] | None = None,
    ) -> list[tuple[ReadClaim, ...]]:
        """Per completion its claims, each with its confidence.

        Args:
            mean_D: the pair's training mean; the vector that knows nothing.
            fidelities: of the completions.
            temperature: of the sampling.
            vectors_ND: the activations; without them their distance from training is not seen.
        """
        calibrator = self.calibrator(temperature)
        system = claim_system(self.claims)
        found = claim_features(verbalizer, mean_D, completions, fidelities, system)
        readings = reading_features(completions, fidelities, mean_D, vectors_ND, self.spread)
        chances = self.chances(readings, temperature)
        return [
            tuple(read_claim(each.claim, inside * calibrator.confidence(each)) for each in features)
            for features, inside in zip(found, chances, strict=True)
        ]


def read_claim(claim: Claim, confidence: float | None) -> ReadClaim:
    """A claim as a reading shows it."""
    return ReadClaim(
        kind=claim.kind,
        value=claim.value,
        start=claim.start,
        end=claim.end,
        confidence=confidence,
    )


def claim_features(
    verbalizer: Verbalizer,
    mean_D: Float[Tensor, " D"],
    completions: Sequence[Completion],
    fidelities: Sequence[float],
    system: ClaimSystem,
) -> list[list[ClaimFeatures]]:
    """Per completion the features of its claims, in order of appearance.

    Costs one forward pass of the verbalizer over the completions, with the mean in the slot.
    """
    nulls = null_logprobs(verbalizer, mean_D, completions)
    rows = zip(completions, nulls, fidelities, strict=True)
    return [_features_of(verbalizer, *row, system) for row in rows]


def _features_of(
    verbalizer: Verbalizer,
    completion: Completion,
    null: Sequence[float],
    fidelity: float,
    system: ClaimSystem,
) -> list[ClaimFeatures]:
    own, spans = completion.logprobs, token_spans(verbalizer, completion)
    return [
        ClaimFeatures(
            each.claim,
            each.logprob(own),
            each.lowest(own),
            each.logprob(own) - each.logprob(null),
            fidelity,
        )
        for each in claim_tokens(completion.text, spans, system)
    ]


@torch.no_grad()
def null_logprobs(
    verbalizer: Verbalizer, mean_D: Float[Tensor, " D"], completions: Sequence[Completion]
) -> list[list[float]]:
    """Per completion the log-probability of each token when the slot holds the mean vector."""
    found: list[list[float]] = []
    for start in range(0, len(completions), ROWS_PER_PASS):
        responses = [list(each.ids) for each in completions[start : start + ROWS_PER_PASS]]
        vectors_BD = mean_D.expand(len(responses), -1)
        logprobs_BT, _ = verbalizer.logprobs(vectors_BD, responses)
        rows = zip(logprobs_BT.tolist(), responses, strict=True)
        found += [row[: len(ids)] for row, ids in rows]
    return found


def token_spans(verbalizer: Verbalizer, completion: Completion) -> list[tuple[int, int]]:
    """Per token of a completion the characters of its `text` that it wrote: [start, end).

    Outside the text, in the tags, both lie before 0 or behind its end.
    """
    opened = completion.raw_text.find(OPEN_TAG)
    first = completion.raw_text.find(completion.text, 0 if opened < 0 else opened + len(OPEN_TAG))
    ends = [len(verbalizer.decode(completion.ids[: k + 1])) for k in range(len(completion.ids))]
    starts = [0, *ends[:-1]]
    return [(start - first, end - first) for start, end in zip(starts, ends, strict=True)]


def support(claim: Claim, others: Sequence[Sequence[Claim]]) -> float | None:
    """Share of other explanations that make the same claim; None where there are none.

    Of other samples of the same vector it is the claim's agreement, of the readings of neighbouring
    tokens its recurrence.
    """
    if not others:
        return None
    same = (claim.kind, claim.value)
    return sum(same in {(each.kind, each.value) for each in row} for row in others) / len(others)
