"""Confidence that knows its limits: a gate between what a pair knows and everything else."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.outside_table import REPORTS
from support.pairs import make_pair
from support.serving import tiny_nla
from tests.unit.test_evals_confidence import judged

import nlakit
from nlakit.claims.confidence import ClaimConfidence, fit_calibrator
from nlakit.claims.inside import (
    LIMITS,
    OutsideReading,
    ReadingFeatures,
    fit_inside,
    reading_features,
)
from nlakit.engines.base import Completion
from nlakit.errors import InputError
from nlakit.evals.outside import evenly, gaussian_vectors, text_vectors
from nlakit.evals.outside_texts import TEXTS


def readings(num: int, fidelity: float, log_norm: float, seed: int) -> list[ReadingFeatures]:
    """Around a fidelity and a norm."""
    noise_N4 = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed)) * 0.1
    middle_4 = torch.tensor([fidelity, -0.2, log_norm, 0.3])
    return [ReadingFeatures(*row) for row in (middle_4 + noise_N4).tolist()]


CONFIDENCES = (0.99, 0.97, 0.6)
"""Of a reading's claims, without a gate."""


def outside(num: int, fidelity: float, log_norm: float, seed: int):
    """A kind of outside: readings that shape a gate, and as many others with three sure claims."""
    fitted, held = (readings(num, fidelity, log_norm, each) for each in (seed, seed + 100))
    return fitted, [OutsideReading(each, CONFIDENCES) for each in held]


def shares(gate, found: list[ReadingFeatures]) -> list[float]:
    """Of the claims of readings outside, those that keep each confidence of `LIMITS`."""
    kept = [gate.chance(each) * confidence for each in found for confidence in CONFIDENCES]
    return [sum(each >= confidence for each in kept) / len(kept) for confidence, _ in LIMITS]


@pytest.fixture(scope="module")
def gate():
    return fit_inside(readings(400, 0.8, 5.9, 0), outside(400, -0.2, 5.85, 1))


def test_gate_lets_in_what_it_knows_and_nothing_else(gate):
    inside = [gate.chance(each) for each in readings(2000, 0.8, 5.9, 2)]
    assert sum(inside) / 2000 > 0.97 and shares(gate, readings(2000, -0.2, 5.85, 3))[1] < 0.075


def test_gate_shuts_on_what_is_far_beyond_all_it_was_fitted_on(gate):
    assert gate.chance(ReadingFeatures(-3.0, -0.9, 2.0, -0.9)) < 0.1


def test_reading_without_its_vector_is_judged_by_the_rest(gate):
    good, poor = (gate.chance(ReadingFeatures(fidelity, -0.2)) for fidelity in (0.8, -0.4))
    assert good > 0.9 and poor < 0.8 * good


def test_claims_outside_keep_within_the_limits_on_readings_that_no_gate_saw():
    """The hard kind overlaps with what is inside, and there is far more of the easy one."""
    inside, hard, easy = readings(400, 0.8, 5.9, 0), outside(1000, 0.55, 5.9, 1), outside(
        4000, -0.4, 2.0, 2
    )  # fmt: skip
    others = readings(2000, 0.55, 5.9, 9)
    found = shares(fit_inside(inside, hard, easy), others)
    assert all(share < 1.5 * limit for share, (_, limit) in zip(found, LIMITS, strict=True))
    assert any(share > 0.3 * limit for share, (_, limit) in zip(found, LIMITS, strict=True))
    mixed = fit_inside(inside, ([*hard[0], *easy[0]], [*hard[1], *easy[1]]))
    assert shares(mixed, others)[0] > 2 * LIMITS[0][1]


def test_few_readings_outside_are_all_kept_below_the_confidence():
    """Ten claims cannot show that at most one in a hundred is sure: none of theirs may be."""
    fitted, held = outside(10, 0.6, 5.9, 1)
    gate = fit_inside(readings(400, 0.8, 5.9, 0), (fitted, held))
    assert max(gate.chance(each.features) for each in held) * 0.99 <= 0.5 + 1e-9


def test_claims_that_are_never_sure_move_no_gate():
    inside, (fitted, held) = readings(400, 0.8, 5.9, 0), outside(50, 0.4, 5.9, 1)
    doubtful = [each._replace(confidences=(0.3,)) for each in held]
    silent = [each._replace(confidences=()) for each in held]
    gates = [fit_inside(inside, (fitted, each)) for each in (doubtful, silent)]
    assert gates[0] == gates[1] and gates[0].bias != fit_inside(inside, (fitted, held)).bias


def test_texts_are_taken_from_all_of_a_corpus():
    assert evenly([str(n) for n in range(10)], 3) == ["0", "3", "6"]
    assert evenly(["a"], 3) == ["a"] and evenly([], 3) == []


def test_gate_without_one_side_is_refused():
    with pytest.raises(InputError, match="found 0, 1 and 1"):
        fit_inside([], outside(1, 0.0, 0.0, 0))


def test_features_of_a_reading():
    made = Completion("a", "a", (1, 2), (-1.0, -3.0), True)
    vector = torch.tensor([[3.0, 4.0]])
    (found,) = reading_features([made], [0.5], torch.tensor([3.0, 4.0]), vector)
    assert found.log_norm == pytest.approx(torch.tensor(5.0).log().item())
    assert (found.fidelity, found.logprob, found.cosine) == (0.5, -2.0, pytest.approx(1.0))


def test_claims_outside_lose_their_confidence(gate, tmp_path):
    calibrator = fit_calibrator(*judged(400, 0))
    known = ClaimConfidence(
        greedy=calibrator, sampled=calibrator, source="x", claims="storyworld", seed=1, documents=2,
        greedy_inside=gate,
    )  # fmt: skip
    known.save(tmp_path)
    assert ClaimConfidence.load(tmp_path) == known
    nla = tiny_nla()
    verbalizer, mean_D = nla.engine.verbalizer, torch.ones(nla.card.d_model)
    text = "A calm story about the sea."
    ids = tuple(verbalizer.encode_response(text))
    made = Completion(text, verbalizer.decode(list(ids)), ids, (-0.2,) * len(ids), True)
    scored = [known.score(verbalizer, mean_D, [made], [fidelity])[0] for fidelity in (0.8, -0.6)]
    pairs = zip(*scored, strict=True)
    assert all(outside.confidence < 0.9 * inside.confidence for inside, outside in pairs)
    (drawn,) = known.score(verbalizer, mean_D, [made], [-0.6], temperature=1.0)
    assert drawn[0].confidence > scored[1][0].confidence  # no gate for sampled explanations


def test_vectors_outside(tiny_target):
    pair = make_pair("x", tiny_target, None, torch.ones(16))
    found = text_vectors(pair, TEXTS[1::2], 8)
    assert found.shape == (8 * len(TEXTS[1::2]), 16)
    norms = gaussian_vectors(5, 16, 10.0, 0).norm(dim=-1)
    assert norms.argmin() == 4 and norms.argmax() == 3


def test_bundled_pair_is_sure_of_its_world_and_of_nothing_else():
    pair = nlakit.load()
    rhyme = "The dreary coin traded near the tree,\nBasil buzzed, sweet heaven, beside the golden"
    known = [each.confidence for each in pair.explain(rhyme, last=1).tokens[0].claims]
    assert len(known) > 3 and min(known) > 0.8
    others_ND = torch.cat([text_vectors(pair, TEXTS[1:4:2], 8), gaussian_vectors(8, 192, 14.0, 3)])
    claims = [each.confidence for row in pair.describe(others_ND) for each in row.claims]
    assert len(claims) > 50 and sum(each >= 0.5 for each in claims) <= 0.1 * len(claims)


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_reports_keep_what_is_promised(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["ece"] <= 0.02
    for outside in found["outside"].values():
        assert outside["share_at_90"] <= 0.02 and outside["share_at_50"] <= 0.1
