"""Calibrators of claims, fitted where it is known which claims are true, and what they are worth.

They are fitted on held-out documents: of what a pair was trained on it is surer than it should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nlakit.claims.calibration import Bin, Calibration, auroc, calibration
from nlakit.claims.confidence import (
    Calibrator,
    ClaimConfidence,
    ClaimFeatures,
    claim_features,
    fit_calibrator,
    support,
)
from nlakit.claims.system import ClaimSystem, State
from nlakit.core.fidelity import row_fidelity
from nlakit.engines.base import MAX_NEW_TOKENS, Sampling
from nlakit.errors import InputError
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair

from .eval_set import EvalRows, EvalSet, neighbours
from .readings import RowReadings, read_rows
from .rows import ReadSample
from .section import Figure, Line, Section

CALIBRATION_SEED = 70_003
CALIBRATION_DOCUMENTS, QUICK_DOCUMENTS = 2_000, 600
SAMPLES, STEPS = 4, (-2, -1, 1, 2)
TOLD_APART = 0.6
SAMPLED = 1.0
"""The temperature for which `ClaimConfidence.sampled` is fitted."""


class JudgedClaims(NamedTuple):
    """N claims with their features, and whether each is true; uncheckable ones are left out."""

    features: list[ClaimFeatures]
    outcomes: list[bool]
    rows: list[int]
    """Which reading each belongs to."""


def judged_claims(
    pair: Pair,
    verbalizer: Verbalizer,
    reading: RowReadings,
    states: Sequence[State],
    system: ClaimSystem,
) -> JudgedClaims:
    """The claims of N readings that can be checked against the state of each row.

    Raises:
        InputError: as `ClaimSystem.known`.
    """
    check, fidelities = system.known().check, row_fidelity(reading.errors).tolist()
    found = claim_features(verbalizer, pair.mean_D, reading.completions, fidelities, system)
    judged = [
        (each, check(each.claim, states[row]), row)
        for row, features in enumerate(found)
        for each in features
    ]
    checked = [each for each in judged if each[1] != "uncheckable"]
    return JudgedClaims(
        features=[features for features, _, _ in checked],
        outcomes=[verdict == "true" for _, verdict, _ in checked],
        rows=[row for _, _, row in checked],
    )


def fit_confidence(
    pair: Pair,
    eval_set: EvalSet,
    documents: int = CALIBRATION_DOCUMENTS,
    seed: int = CALIBRATION_SEED,
) -> ClaimConfidence:
    """Both calibrators of a pair, from `documents` held-out documents of `seed`.

    Raises:
        InputError: the engine gives no probabilities, nobody can check the claims, or none of both
            outcomes were found.
    """
    rows = _calibration_rows(pair, eval_set, documents, seed)
    found = {
        temperature: _fit(pair, eval_set.claims, rows, seed, temperature)
        for temperature in (0.0, SAMPLED)
    }
    return ClaimConfidence(
        greedy=found[0.0],
        sampled=found[SAMPLED],
        source=eval_set.name,
        claims=eval_set.claims.name,
        seed=seed,
        documents=documents,
    )


def calibrator_for(
    pair: Pair, eval_set: EvalSet, documents: int, seed: int, temperature: float
) -> Calibrator | None:
    """A calibrator that never saw a document of `seed`: the pair's own, or one fitted now.

    One that is fitted now takes as many documents as the report, up to `QUICK_DOCUMENTS`. None
    where the engine gives no probabilities, or the claims leave nothing to learn.
    """
    own = pair.confidence
    if own is not None and own.seed != seed:
        return own.calibrator(temperature)
    other = CALIBRATION_SEED if seed != CALIBRATION_SEED else CALIBRATION_SEED + 1
    try:
        rows = _calibration_rows(pair, eval_set, min(documents, QUICK_DOCUMENTS), other)
        return _fit(pair, eval_set.claims, rows, other, temperature)
    except InputError:
        return None


def claim_calibration(
    pair: Pair,
    reading: RowReadings,
    states: Sequence[State],
    system: ClaimSystem,
    calibrator: Calibrator | None,
) -> Calibration | None:
    """How well a calibrator's confidences fit the truth of N readings' claims."""
    verbalizer = pair.verbalizer
    if verbalizer is None or calibrator is None:
        return None
    features, outcomes, _ = judged_claims(pair, verbalizer, reading, states, system)
    return calibration([calibrator.confidence(each) for each in features], outcomes)


def measure(sample: ReadSample, thorough: bool = False) -> Section:
    """The reliability of confidences on N readings, beside each feature alone.

    Args:
        thorough: also read each vector several times and the tokens around it, which shows what
            agreement and recurrence would be worth.

    Raises:
        InputError: the engine gives no probabilities of words, or nobody can check the claims.
    """
    pair, system = sample.pair, sample.claims
    verbalizer = pair.verbalizer
    if verbalizer is None:
        raise InputError("This engine gives no probabilities of words, so claims have none.")
    judged = judged_claims(pair, verbalizer, sample.reading, sample.known_states(), system)
    features, outcomes = judged.features, judged.outcomes
    names = ["information", "fidelity"]
    if thorough:
        features, names = _supported(sample, judged), [*names, "agreement", "recurrence"]
    documents = len(set(sample.doc_ids))
    calibrator = calibrator_for(pair, sample.eval_set, documents, sample.seed, sample.temperature)
    scores = {"probability of its words": [each.number("probability") for each in features]}
    if calibrator is not None:
        scores = {"confidence": [calibrator.confidence(each) for each in features], **scores}
    lines = [_line(name, calibration(values, outcomes)) for name, values in scores.items()]
    lines += [_ranking(name, features, outcomes) for name in names]
    found = calibration(scores.get("confidence", []), outcomes)
    lines += [_bin_line(each) for each in (found.bins if found else ())]
    return sample.section(
        "confidence",
        "is a claim as likely as its confidence says?",
        "ECE: mean over claims of |accuracy - confidence| of their bin of ten. Brier: mean squared "
        "difference, a coin's is 0.25. AUROC: chance that a true claim has more than a false one.",
        lines,
        suspicions=_suspicions(found),
    )


def _supported(sample: ReadSample, judged: JudgedClaims) -> list[ClaimFeatures]:
    """The features with agreement over samples and recurrence at neighbouring tokens."""
    sampling = Sampling(SAMPLES, SAMPLED, max_new_tokens=MAX_NEW_TOKENS, seed=sample.seed)
    answers = sample.pair.engine.verbalize(sample.vectors_ND, sampling)
    find = sample.claims.find
    samples = [[find(each.text) for each in group] for group in answers]
    around = [[find(text) for text in texts] for texts in _neighbours(sample)]
    return [
        replace(
            each,
            agreement=support(each.claim, samples[row]),
            # A text of one token has no neighbours, and nothing recurs there.
            recurrence=support(each.claim, around[row]) or 0.0,
        )
        for each, row in zip(judged.features, judged.rows, strict=True)
    ]


def _neighbours(sample: ReadSample) -> list[list[str]]:
    """Per place the explanations of the tokens around it."""
    pair = sample.pair
    vectors_MD, counts = neighbours(pair.target, sample.sample, STEPS)
    reading = read_rows(pair, pair.engine, vectors_MD, sample.temperature, sample.seed)
    texts = iter(reading.texts)
    return [[next(texts) for _ in range(count)] for count in counts]


def _line(name: str, found: Calibration | None) -> Line:
    if found is None:
        return Line(name=name, figures={})
    values = {"ECE": found.ece, "Brier": found.brier, "AUROC": found.auroc}
    return Line(
        name=name,
        figures={key: Figure(value=value, count=found.count) for key, value in values.items()},
    )


def _ranking(name: str, features: list[ClaimFeatures], outcomes: list[bool]) -> Line:
    """A feature that is no probability can only be asked which claim it would rather believe."""
    numbers = np.array([each.number(name) for each in features])
    value = auroc(numbers, np.array(outcomes, dtype=bool))
    return Line(name=f"{name} alone", figures={"AUROC": Figure(value=value)})


def _bin_line(found: Bin) -> Line:
    figures = {
        "confidence": Figure(value=found.confidence, count=found.count),
        "accuracy": Figure(value=found.accuracy, count=found.count),
        "claims": Figure(value=found.count),
    }
    return Line(name=f"confidence {found.low:.1f} to {found.high:.1f}", figures=figures)


def _suspicions(found: Calibration | None) -> list[str]:
    if found is None:
        return ["No confidence: there is nothing to calibrate on, or no claim to check."]
    if found.auroc is not None and found.auroc < TOLD_APART:
        return [
            f"Confidence tells nothing: a true claim has more than a false one in "
            f"{found.auroc:.0%} of the cases."
        ]
    return []


def _calibration_rows(pair: Pair, eval_set: EvalSet, documents: int, seed: int) -> EvalRows:
    """What calibrators are fitted on; what fits none is found out before anything is read."""
    if pair.verbalizer is None:
        raise InputError("This engine gives no probabilities of words, which a calibrator needs.")
    eval_set.claims.known()
    return eval_set.calibration(pair.target, seed, documents)


def _fit(
    pair: Pair, system: ClaimSystem, rows: EvalRows, seed: int, temperature: float
) -> Calibrator:
    verbalizer = pair.verbalizer
    assert verbalizer is not None, "without one there are no rows"
    reading = read_rows(pair, pair.engine, rows.vectors_ND, temperature, seed)
    judged = judged_claims(pair, verbalizer, reading, rows.states or (), system)
    return fit_calibrator(judged.features, judged.outcomes)
