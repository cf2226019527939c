"""Confidence that knows its limits: a gate between what a pair knows and everything else."""

from __future__ import annotations

import json

import pytest
import torch
from support.pairs import make_pair
from support.serving import tiny_nla
from tests.unit.test_evals_confidence import judged

from nlakit.claims.confidence import ClaimConfidence, fit_calibrator
from nlakit.claims.inside import ReadingFeatures, fit_inside, reading_features
from nlakit.engines.base import Completion
from nlakit.errors import InputError
from nlakit.evals.outside import gaussian_vectors, spread, text_vectors
from nlakit.evals.outside_texts import TEXTS
from nlakit.registry import bundled_path


def readings(num: int, fidelity: float, log_norm: float, seed: int) -> list[ReadingFeatures]:
    """Around a fidelity and a norm."""
    noise_N4 = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed)) * 0.1
    middle_4 = torch.tensor([fidelity, -0.2, log_norm, 0.3])
    return [ReadingFeatures(*row) for row in (middle_4 + noise_N4).tolist()]


@pytest.fixture(scope="module")
def gate():
    return fit_inside(readings(400, 0.8, 5.9, 0), readings(400, -0.2, 5.85, 1))


def test_gate_lets_in_what_it_knows_and_nothing_else(gate):
    inside = [gate.chance(each) for each in readings(300, 0.8, 5.9, 2)]
    outside = [gate.chance(each) for each in readings(300, -0.2, 5.85, 3)]
    assert sum(inside) / 300 > 0.97 and sum(each > 0.5 for each in outside) / 300 < 0.06


def test_gate_shuts_on_what_is_far_beyond_all_it_was_fitted_on(gate):
    assert gate.chance(ReadingFeatures(-3.0, -0.9, 2.0, -0.9)) < 0.1


def test_reading_without_its_vector_is_judged_by_the_rest(gate):
    good, poor = (gate.chance(ReadingFeatures(fidelity, -0.2)) for fidelity in (0.8, -0.4))
    assert good > 0.9 and poor < 0.8 * good


def test_each_kind_outside_is_let_in_as_rarely_as_the_others():
    """Many readings that are easy to tell must not let the hard ones in."""
    hard, easy = readings(200, 0.6, 5.9, 1), readings(2000, -0.4, 2.0, 2)
    inside = readings(400, 0.8, 5.9, 0)
    apart, mixed = fit_inside(inside, hard, easy), fit_inside(inside, [*hard, *easy])
    share = lambda gate: sum(gate.chance(each) >= 0.5 for each in hard) / 200  # noqa: E731
    assert share(apart) <= 0.021 < 0.1 < share(mixed)


def test_texts_are_taken_from_all_of_a_corpus():
    assert spread([str(n) for n in range(10)], 3) == ["0", "3", "6"]
    assert spread(["a"], 3) == ["a"] and spread([], 3) == []


def test_gate_without_one_side_is_refused():
    with pytest.raises(InputError, match="found 0 and 1"):
        fit_inside([], readings(1, 0.0, 0.0, 0))


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


def test_bundled_calibrator_has_gates():
    found = json.loads((bundled_path() / "calibrator.json").read_text())
    assert found["greedy_inside"]["outside"] > 500 and found["sampled_inside"]["inside"] >= 500
