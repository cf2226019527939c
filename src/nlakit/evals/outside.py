"""Confidence where a pair knows nothing: on other text and on vectors that no text has.

Every claim there counts as wrong. Fitting gives a calibrator its gate (`claims.inside`); measuring
says how many claims still carry a confidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claims.calibration import calibration
from nlakit.claims.confidence import ClaimConfidence, claim_features
from nlakit.claims.distance import ActivationSpread
from nlakit.claims.inside import (
    Inside,
    OutsideReading,
    ReadingFeatures,
    fit_inside,
    reading_features,
)
from nlakit.claims.registry import claim_system
from nlakit.config import FrozenModel
from nlakit.errors import InputError
from nlakit.pair.pair import Pair

from .confidence import CALIBRATION_SEED, SAMPLED, judged_claims
from .eval_set import EvalSet
from .outside_texts import TEXTS
from .readings import RowReadings, read_rows
from .rows import ReadSample

FIT_TEXTS, POSITIONS, FIT_VECTORS = 600, 8, 480
MEASURED_TEXTS, MEASURED_VECTORS, SEED = 200, 64, 70_008
INSIDE_SHARE = 4
"""One in so many documents shapes the gates; of the others the spread of activations is taken."""
NORMS = (1.0, 1.0, 0.3, 3.0, 0.04)
"""Of Gaussian vectors, as shares of the mean norm of the activations inside, by turns."""
SURE, LIKELY = 0.9, 0.5


class OutsideShares(FrozenModel):
    """How many claims carry a confidence where all of them count as wrong."""

    claims: int
    share_at_90: float
    """Of the claims, those with a confidence of 0.9 or more."""
    share_at_50: float
    mean_fidelity: float


class Outside(FrozenModel):
    """On Gaussian vectors, and on ordinary prose."""

    gaussian: OutsideShares
    text: OutsideShares


class ConfidenceReport(FrozenModel):
    """What `nlakit eval confidence --outside` prints; confidences as a reading shows them."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_confidence_report"] = "nla_confidence_report"
    nla: str
    documents: int
    seed: int
    temperature: float
    claims: int
    ece: float
    """Expected calibration error on the held-out documents that the pair knows."""
    brier: float
    auroc: float | None
    share_at_90: float
    """Of the claims there, those with a confidence of 0.9 or more."""
    texts: int
    """Of other text, on which `outside.text` is measured."""
    outside: Outside


class _Vectors(NamedTuple):
    """Activations outside: of text, and Gaussian ones."""

    text_ND: Float[Tensor, "N D"]
    gaussian_ND: Float[Tensor, "M D"]


class _Kind(NamedTuple):
    """Activations of one kind of outside: those that shape a gate, and those it is held against."""

    fit_ND: Float[Tensor, "N D"]
    held_MD: Float[Tensor, "M D"]


def with_gates(
    pair: Pair, known: ClaimConfidence, eval_set: EvalSet, documents: int, texts: Iterable[str] = ()
) -> ClaimConfidence:
    """A calibrator with gates between what it was fitted on and everything else.

    Args:
        documents: held-out documents inside, of the calibrator's own seed.
        texts: other text, `FIT_TEXTS` spread over all of it. Every other one shapes the gates; the
            rest, and half of `TEXTS`, decides how far they are moved. Without texts, both do with
            half of `TEXTS`.
    """
    known_ND = eval_set.calibration(pair.target, known.seed, documents).vectors_ND
    norm = known_ND.norm(dim=-1).mean().item()
    is_inside_N = torch.arange(len(known_ND)) % INSIDE_SHARE == 0
    spread = ActivationSpread.fit(known_ND[~is_inside_N])
    drawn_ND = gaussian_vectors(FIT_VECTORS, pair.card.d_model, norm, CALIBRATION_SEED)
    ours, given = TEXTS[::2], evenly(list(texts), FIT_TEXTS)
    kinds = [_Kind(*drawn_ND.chunk(2)), _Kind(*_halves(pair, given or ours))]
    if given:
        kinds.append(_Kind(drawn_ND[:0], text_vectors(pair, ours, POSITIONS)))
    wider = known.model_copy(update={"spread": spread})
    gates = [_gate(pair, wider, known_ND[is_inside_N], kinds, each) for each in (0.0, SAMPLED)]
    return wider.model_copy(update={"greedy_inside": gates[0], "sampled_inside": gates[1]})


def _halves(pair: Pair, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    first, second = (text_vectors(pair, texts[start::2], POSITIONS) for start in (0, 1))
    return first, second


def evenly(texts: Sequence[str], num: int) -> list[str]:
    """At most `num` of some texts, evenly over all: a corpus may have one kind after the other."""
    if len(texts) <= num:
        return list(texts)
    return [texts[turn * len(texts) // num] for turn in range(num)]


def _gate(
    pair: Pair,
    known: ClaimConfidence,
    inside_ND: Tensor,
    outside: Sequence[_Kind],
    temperature: float,
) -> Inside:
    def features(vectors_ND: Tensor) -> list[ReadingFeatures]:
        reading = read_rows(pair, pair.engine, vectors_ND, temperature, 0)
        return _features(pair, known, vectors_ND, reading)

    kinds = [
        (
            features(kind.fit_ND) if len(kind.fit_ND) else [],
            _held(pair, known, kind.held_MD, temperature),
        )
        for kind in outside
    ]
    return fit_inside(features(inside_ND), *kinds)


def _held(
    pair: Pair, known: ClaimConfidence, vectors_ND: Tensor, temperature: float
) -> list[OutsideReading]:
    """Readings outside, with the confidence that each of their claims has without a gate."""
    assert pair.verbalizer is not None, "a calibrator was fitted"
    reading = read_rows(pair, pair.engine, vectors_ND, temperature, 0)
    features = _features(pair, known, vectors_ND, reading)
    claims = claim_features(
        pair.verbalizer,
        pair.mean_D,
        reading.completions,
        [each.fidelity for each in features],
        claim_system(known.claims),
    )
    calibrator = known.calibrator(temperature)
    return [
        OutsideReading(own, tuple(calibrator.confidence(each) for each in found))
        for own, found in zip(features, claims, strict=True)
    ]


def confidence_report(sample: ReadSample, texts: Sequence[str] = ()) -> ConfidenceReport:
    """The calibration of N readings inside, and what is asserted outside.

    Args:
        texts: other text that no gate was fitted on, `MEASURED_TEXTS` of it; by default the half of
            `TEXTS` that is never fitted on.

    Raises:
        InputError: the pair has no calibrator, its engine gives no probabilities, or nobody can
            check the claims.
    """
    pair = sample.pair
    if pair.confidence is None or pair.verbalizer is None:
        raise InputError(
            f"{pair.name!r} has no calibrator.json. Make one with `nlakit eval confidence --write`."
        )
    system, temperature = sample.claims, sample.temperature
    judged = judged_claims(pair, pair.verbalizer, sample.reading, sample.known_states(), system)
    readings = _features(pair, pair.confidence, sample.vectors_ND, sample.reading)
    chances = pair.confidence.chances(readings, temperature)
    calibrator = pair.confidence.calibrator(temperature)
    others = evenly(texts, MEASURED_TEXTS) or TEXTS[1::2]
    claimed = zip(judged.features, judged.rows, strict=True)
    confidences = [calibrator.confidence(each) * chances[row] for each, row in claimed]
    found = calibration(confidences, judged.outcomes)
    if found is None:
        raise InputError(f"{pair.name!r} makes no claim that could be checked.")
    return ConfidenceReport(
        nla=pair.name,
        documents=len(set(sample.doc_ids)),
        seed=sample.seed,
        temperature=temperature,
        claims=found.count,
        ece=found.ece,
        brier=found.brier,
        auroc=found.auroc,
        share_at_90=_share(confidences, SURE),
        texts=len(others),
        outside=_outside(sample, _measured(sample, others)),
    )


def _measured(sample: ReadSample, texts: Sequence[str]) -> _Vectors:
    norm = sample.vectors_ND.norm(dim=-1).mean().item()
    d_model = sample.pair.card.d_model
    return _Vectors(
        text_vectors(sample.pair, texts, POSITIONS),
        gaussian_vectors(MEASURED_VECTORS, d_model, norm, SEED + sample.seed),
    )


def _outside(sample: ReadSample, vectors: _Vectors) -> Outside:
    return Outside(
        text=_shares(sample, vectors.text_ND), gaussian=_shares(sample, vectors.gaussian_ND)
    )


def _shares(sample: ReadSample, vectors_ND: Tensor) -> OutsideShares:
    pair = sample.pair
    assert pair.confidence is not None and pair.verbalizer is not None
    reading = read_rows(pair, pair.engine, vectors_ND, sample.temperature, sample.seed)
    fidelities = _fidelities(pair, reading)
    claims = pair.confidence.score(
        pair.verbalizer,
        pair.mean_D,
        reading.completions,
        fidelities,
        sample.temperature,
        vectors_ND,
    )
    confidences = [each.confidence or 0.0 for row in claims for each in row]
    return OutsideShares(
        claims=len(confidences),
        share_at_90=_share(confidences, SURE),
        share_at_50=_share(confidences, LIKELY),
        mean_fidelity=sum(fidelities) / len(fidelities),
    )


def _share(confidences: Sequence[float], least: float) -> float:
    return sum(each >= least for each in confidences) / max(1, len(confidences))


def _features(
    pair: Pair, known: ClaimConfidence, vectors_ND: Tensor, reading: RowReadings
) -> list[ReadingFeatures]:
    fidelities = _fidelities(pair, reading)
    return reading_features(reading.completions, fidelities, pair.mean_D, vectors_ND, known.spread)


def _fidelities(pair: Pair, reading: RowReadings) -> list[float]:
    """As a reading would have them: against the card's variance, not the rows' own."""
    return (1 - reading.errors.mse_N / pair.card.variance).tolist()


def text_vectors(pair: Pair, texts: Sequence[str], positions: int) -> Float[Tensor, "N D"]:
    """Activations spread over each of some texts, which are cut at the target's context."""
    ids = [_head(pair, text) for text in texts]
    places = [
        sorted({(len(row) - 1) * turn // positions for turn in range(1, positions + 1)} - {0})
        for row in ids
    ]
    kept = [row for row, found in enumerate(places) if found]
    vectors = pair.target.activations([ids[row] for row in kept], [places[row] for row in kept])
    return torch.cat(vectors).float().cpu()


def _head(pair: Pair, text: str) -> list[int]:
    """The tokens of a text's head, as much of it as fits the target's context."""
    size = len(text)
    while True:
        try:
            return pair.target.encode(text[:size]).ids
        except InputError:
            if size < 2:
                raise
            size //= 2


def gaussian_vectors(num: int, d_model: int, norm: float, seed: int) -> Float[Tensor, "N D"]:
    """Random directions, of the norm of activations, and of much smaller and larger ones."""
    drawn_ND = torch.randn(num, d_model, generator=torch.Generator().manual_seed(seed))
    sizes_N = torch.tensor([NORMS[row % len(NORMS)] * norm for row in range(num)])
    return drawn_ND * (sizes_N / d_model**0.5)[:, None]
