"""Confidences of claims: their features, their calibrator, and whether they mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.serving import tiny_nla

from nlakit.claim import Claim
from nlakit.claims.calibration import auroc, calibration
from nlakit.claims.confidence import (
    CONFIDENCE_NAME,
    ClaimConfidence,
    ClaimFeatures,
    claim_features,
    fit_calibrator,
    logit,
    support,
    token_spans,
)
from nlakit.claims.grounding import ClaimJudge
from nlakit.claims.probability import claim_tokens
from nlakit.claims.spans import SPANS
from nlakit.engines.base import Completion
from nlakit.errors import CheckpointError, InputError
from nlakit.reading import Reading
from nlakit.storyworld.claims import parse
from nlakit.worlds.storyworld.claims import STORYWORLD

TEXT = 'A calm story about the sea. It ends on "wet sand"; then punctuation.'


# -- calibration -----------------------------------------------------------------------------------
def test_perfect_and_hopeless_confidences():
    right = calibration([0.25] * 4 + [0.75] * 4, [True, *[False] * 3, *[True] * 3, False])
    assert right is not None
    assert (right.ece, right.brier) == (0.0, pytest.approx(0.1875))
    sure = calibration([1.0] * 10, [True] * 4 + [False] * 6)
    assert sure is not None
    assert (sure.ece, sure.auroc) == (pytest.approx(0.6), 0.5)
    assert [each.count for each in sure.bins] == [10]


def test_calibration_of_no_claims_is_none():
    assert calibration([], []) is None


def test_auroc_counts_ties_half():
    scores, outcomes = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])
    assert auroc(scores, outcomes) == pytest.approx(3.5 / 4)
    assert auroc(scores, np.array([True] * 4)) is None


# -- features --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nla():
    return tiny_nla()


def written(verbalizer, text, vector):
    """A completion that says `text`, with the verbalizer's own probabilities."""
    ids = verbalizer.encode_response(text)
    logprobs, _ = verbalizer.logprobs(vector[None], [ids])
    raw = verbalizer.decode(ids)
    return Completion(text, raw, tuple(ids), tuple(logprobs[0].tolist()), True)


def test_claims_have_the_tokens_of_their_words(nla):
    verbalizer = nla.engine.verbalizer
    completion = written(verbalizer, TEXT, torch.ones(nla.card.d_model))
    spans = token_spans(verbalizer, completion)
    for claim in parse(TEXT):
        pieces = [
            verbalizer.decode([token])
            for token, (start, end) in zip(completion.ids, spans, strict=True)
            if start < claim.end and end > claim.start
        ]
        assert TEXT[claim.start : claim.end] in "".join(pieces)
    assert spans[0][0] < 0
    assert spans[-1][1] > len(TEXT)


def test_a_claim_is_read_at_its_phrase_and_counts_its_wordings():
    text = "A tale, told by a sailor."
    offsets = [(at, at + 1) for at in range(len(text))]
    (_, speaker) = claim_tokens(text, offsets, STORYWORLD)
    start = text.index("sailor")
    assert (speaker.tokens, speaker.wordings) == (tuple(range(start, start + 6)), 2)
    logprobs = [-1.0] * start + [-0.1, -0.3, *[0.0] * 4] + [-1.0]
    assert speaker.logprob(logprobs) == pytest.approx(math.log(2) - 0.4)
    assert speaker.lowest(logprobs) == -0.3
    # The tags' tokens, whose offsets are empty or lie outside, belong to no claim.
    assert claim_tokens(text, [(0, 0), (-4, 0), (len(text), 99)], STORYWORLD) == []


def test_the_judge_and_the_confidence_read_the_same_probability(nla):
    verbalizer, vector = nla.engine.verbalizer, torch.ones(nla.card.d_model)
    made = written(verbalizer, TEXT, vector)
    ((*features,),) = claim_features(verbalizer, -vector, [made], [0], STORYWORLD)
    ((*judged,),) = ClaimJudge(verbalizer, STORYWORLD, "float32").judge(vector[None], [TEXT])
    assert [each.claim for each in judged] == [each.claim for each in features]
    assert [each.probability for each in judged] == pytest.approx(
        [math.exp(each.logprob) for each in features], rel=1e-4
    )


def test_claims_of_prose_have_features_too(nla):
    verbalizer, mean = nla.engine.verbalizer, torch.ones(nla.card.d_model)
    made = written(verbalizer, 'A report from Genoa: "43 dead".', -mean)
    (features,) = claim_features(verbalizer, mean, [made], [0.5], SPANS)
    assert [each.claim.kind for each in features] == ["phrase", "name", "quote"]


def test_information_is_nothing_for_the_mean_itself(nla):
    verbalizer, mean = nla.engine.verbalizer, torch.arange(1.0, 9.0)
    blind = written(verbalizer, TEXT, mean)
    seeing = written(verbalizer, TEXT, -mean)
    features = claim_features(verbalizer, mean, [blind, seeing], [0.5, 0.9], STORYWORLD)
    assert {each.claim.kind for each in features[0]} == {"mood", "genre", "topic", "last", "next"}
    assert [each.information for each in features[0]] == pytest.approx([0.0] * 5, abs=1e-4)
    assert max(abs(each.information) for each in features[1]) > 0.05
    assert all(each.logprob - math.log(2) <= each.lowest < 0 for row in features for each in row)
    assert (features[0][0].fidelity, features[1][0].fidelity) == (0.5, 0.9)


def test_support_is_the_share_of_others_that_claim_the_same():
    calm, angry = Claim("mood", "calm", 0, 4), Claim("mood", "angry", 0, 5)
    elsewhere = Claim("mood", "calm", 7, 11)
    assert support(calm, [[elsewhere], [angry], [], [angry, calm]]) == 0.5
    assert support(calm, []) is None


def test_logit_is_cut_where_it_would_be_infinite():
    assert logit(0.0) == logit(0.7) == 9.0
    assert logit(-100.0) == -12.0
    assert logit(math.log(0.5)) == pytest.approx(0.0)


# -- the calibrator --------------------------------------------------------------------------------
def judged(num, seed):
    """Claims that are true with the probability of their words; of "day", never."""
    rng = np.random.default_rng(seed)
    features, outcomes = [], []
    for number in range(num):
        kind, chance = ("day", "mood")[number % 2], float(rng.uniform(0.02, 0.98))
        features.append(
            ClaimFeatures(Claim(kind, "x", 0, 1), math.log(chance), math.log(chance), 0.0, 0.5, 0.0)
        )
        outcomes.append(kind == "mood" and bool(rng.random() < chance))
    return features, outcomes


def test_calibrator_finds_chances_and_hopeless_kinds():
    calibrator = fit_calibrator(*judged(3000, 0))
    features, outcomes = judged(2000, 1)
    confidences = [calibrator.confidence(each) for each in features]
    found = calibration(confidences, outcomes)
    assert found is not None
    assert found.ece < 0.03
    assert max(c for c, f in zip(confidences, features, strict=True) if f.claim.kind == "day") < 0.1


def test_calibrator_that_saw_no_false_claim_is_refused():
    with pytest.raises(InputError, match="all 4 are alike"):
        fit_calibrator(judged(4, 0)[0], [True] * 4)


def test_feature_that_was_not_measured_is_named():
    features, outcomes = judged(200, 0)
    calibrator = fit_calibrator(features, outcomes, ("logit", "agreement"))
    bare = ClaimFeatures(Claim("mood", "x", 0, 1), -1.0, -1.0, 0.0, 0.5)
    with pytest.raises(InputError, match="agreement"):
        calibrator.confidence(bare)


# -- in readings -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def confidence():
    calibrator = fit_calibrator(*judged(400, 0))
    return ClaimConfidence(
        greedy=calibrator,
        sampled=calibrator,
        source="storyworld",
        claims="storyworld",
        seed=3,
        documents=4,
    )


def test_confidence_comes_back_from_disk(confidence, tmp_path):
    assert ClaimConfidence.load(tmp_path) is None
    confidence.save(tmp_path)
    assert ClaimConfidence.load(tmp_path) == confidence
    (tmp_path / CONFIDENCE_NAME).write_text('{"greedy": 1}')
    with pytest.raises(CheckpointError, match="greedy"):
        ClaimConfidence.load(tmp_path)


@pytest.fixture(scope="module")
def reading(nla, confidence):
    """What the tiny NLA would give, had it said `TEXT`."""
    completion = written(nla.engine.verbalizer, TEXT, torch.ones(nla.card.d_model))
    scores = [nla.score(TEXT, torch.ones(nla.card.d_model))]
    (claims,) = replace(nla, confidence=confidence).claims([completion], scores)
    row = {"position": 3, "token": "x", "explanation": TEXT, "claims": claims}
    return Reading(
        text="x", tokens=({**row, **scores[0].model_dump()},), nla="tiny", calibrated=True
    )  # pyright: ignore[reportArgumentType]


def test_every_claim_of_a_reading_has_its_confidence(reading):
    claims = reading.tokens[0].claims
    assert [each.kind for each in claims] == ["mood", "genre", "topic", "last", "next"]
    assert all(0 <= each.confidence <= 1 for each in claims)


def test_hidden_claims_leave_an_ellipsis_and_the_others_their_places(reading):
    claims = {"calm": 0.9, "story": 0.2, "sea": 0.95, "wet sand": 0.1, "punctuation": 0.99}
    row = reading.tokens[0]
    marked = tuple(
        each.model_copy(update={"confidence": claims[TEXT[each.start : each.end]]})
        for each in row.claims
    )
    sure = reading.model_copy(update={"tokens": (row.model_copy(update={"claims": marked}),)})
    (kept,) = sure.above(0.5).tokens
    assert kept.explanation == 'A calm … about the sea. It ends on "…"; then punctuation.'
    words = [kept.explanation[each.start : each.end] for each in kept.claims]
    assert words == ["calm", "sea", "punctuation"]
    assert sure.above(0.0).tokens[0].explanation == TEXT


def test_threshold_without_a_calibrator_is_refused(reading):
    bare = reading.model_copy(update={"calibrated": False})
    with pytest.raises(InputError, match=r"no calibrator\.json"):
        bare.above(0.5)
    with pytest.raises(InputError, match="found 1.5"):
        reading.above(1.5)
