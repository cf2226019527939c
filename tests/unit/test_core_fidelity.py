"""FVE against values worked out by hand."""

import math

import pytest
import torch

from nlakit.core.fidelity import fve, reconstruction_mse
from nlakit.core.scale import to_norm
from nlakit.errors import InputError


def rows(seed, n=200, d=16):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 1.0


def test_mse_is_twice_one_minus_cosine_whatever_the_lengths():
    h, h_hat = rows(0), rows(1) * 37
    cosine = torch.cosine_similarity(h, h_hat)
    assert torch.allclose(reconstruction_mse(h, h_hat, 4.0), 2 * (1 - cosine), atol=1e-5)


def test_fve_of_truth_mean_and_opposite():
    h = rows(0)
    mean = to_norm(h, 4.0).mean(0)
    assert fve(h, h, mean, 4.0).fve == pytest.approx(1.0)
    assert fve(to_norm(h, 4.0), mean.expand_as(h), mean, None).fve == pytest.approx(0.0, abs=1e-5)
    assert fve(h, -h, mean, 4.0).fve < -3


def test_renormalized_mean_inflates():
    h, h_hat = rows(0), rows(0) + 0.8 * rows(1)
    mean = to_norm(h, 4.0).mean(0)
    result = fve(h, h_hat, mean, 4.0)
    assert result.fve_renormalized_mean > result.fve
    # E‖h - m‖² = d - ‖m‖² for the plain mean of vectors of norm √d.
    assert result.variance == pytest.approx(1 - float(mean.square().sum()) / 16, rel=1e-5)
    assert result.mse == pytest.approx(float(reconstruction_mse(h, h_hat, 4.0).mean()), rel=1e-5)
    assert result.num_rows == 200


def test_zero_reconstruction_is_a_number():
    h = rows(0)
    result = fve(h, torch.zeros_like(h), to_norm(h, 4.0).mean(0), 4.0)
    assert result.mse == pytest.approx(1.0) and math.isfinite(result.fve)


def test_fve_refuses_no_rows_and_no_variance():
    with pytest.raises(InputError, match="at least one row"):
        fve(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(4), 2.0)
    with pytest.raises(InputError, match="variance 0"):
        fve(torch.ones(3, 4), torch.ones(3, 4), torch.ones(4), 2.0)
