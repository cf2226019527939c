"""How far an activation lies from those of training."""

from __future__ import annotations

import pydantic
import pytest
import torch
from tests.unit.test_inside import outside, readings

from nlakit.claims.distance import ActivationSpread
from nlakit.claims.inside import ReadingFeatures, fit_inside, reading_features
from nlakit.engines.base import Completion

D_MODEL = 24


def activations(num: int, seed: int, stretched: int = 4, size: float = 7.0) -> torch.Tensor:
    """Around a mean, with most of their variance along a few directions."""
    noise_ND = torch.randn(num, D_MODEL, generator=torch.Generator().manual_seed(seed))
    widths_D = torch.ones(D_MODEL)
    widths_D[:stretched] = 4.0
    return (noise_ND * widths_D + 10.0) * size


@pytest.fixture(scope="module")
def spread():
    return ActivationSpread.fit(activations(2000, 0), num_axes=4)


def test_activations_like_those_of_training_lie_at_nothing(spread):
    found = torch.tensor(spread.distances(activations(500, 1)))
    assert found.exp().mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.1)


def test_other_directions_lie_far_in_the_part_that_is_odd(spread):
    inside_ND = activations(1, 2)
    usual, along, beside = spread.distances(
        torch.cat([inside_ND, inside_ND + 300 * torch.eye(D_MODEL)[[0, 20]]])
    )
    assert along.along > usual.along + 1 and beside.beside > usual.beside + 1
    assert beside.beside > along.beside


def test_the_length_of_an_activation_is_no_distance(spread):
    (near,), (large,) = (spread.distances(activations(1, 3, size=size)) for size in (1.0, 50.0))
    assert near == pytest.approx(large, abs=1e-3)


def test_it_survives_its_file(spread):
    again = ActivationSpread.model_validate_json(spread.model_dump_json())
    assert again == spread and again.rows == 2000
    assert again.distances(activations(3, 4)) == spread.distances(activations(3, 4))


@pytest.mark.parametrize(
    ("field", "value"), [("axes", "AAAA"), ("mean", "!"), ("mean", ""), ("variances", (1.0,))]
)
def test_numbers_that_do_not_fit_are_refused(spread, field, value):
    with pytest.raises(pydantic.ValidationError):
        ActivationSpread.model_validate(spread.model_dump() | {field: value})


def test_fewer_directions_than_axes_are_taken_half():
    found = ActivationSpread.fit(torch.eye(6) + torch.arange(6.0), num_axes=32)
    assert len(found.variances) == 3


def test_a_reading_has_its_distance_where_a_spread_is_known(spread):
    made = Completion("a", "a", (1,), (-1.0,), True)
    mean_D, vectors_ND = torch.ones(D_MODEL), activations(1, 5)
    (found,) = reading_features([made], [0.5], mean_D, vectors_ND, spread)
    assert (found.along, found.beside) == spread.distances(vectors_ND)[0]
    (unknown,) = reading_features([made], [0.5], mean_D, vectors_ND)
    assert unknown.along is None and unknown.log_norm == found.log_norm


def test_a_gate_that_was_fitted_without_distances_ignores_them():
    gate = fit_inside(readings(400, 0.8, 5.9, 0), outside(400, -0.2, 5.85, 1))
    plain = ReadingFeatures(0.5, -0.2, 5.9, 0.3)
    assert gate.chance(plain) == gate.chance(plain._replace(along=9.0, beside=9.0))
