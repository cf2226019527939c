"""Sites, norms and injection."""

import math

import pytest
import torch

from nlakit.core.inject import add_norm_matched, check_vectors, replace_rows
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.core.site import Site
from nlakit.errors import InputError


def test_site_counts_blocks_from_zero():
    assert (Site(20).num_blocks, Site(20).hidden_states_index) == (21, 21)
    Site(3).check_depth(4)
    with pytest.raises(InputError, match="blocks 0 to 3"):
        Site(4).check_depth(4)


@pytest.mark.parametrize(("layer", "point"), [(-1, "block_output"), (2, "mlp")])
def test_site_refuses_what_nothing_reads(layer, point):
    with pytest.raises(InputError, match="found"):
        Site(layer, point)


def test_scale_resolves_words_numbers_and_null():
    assert resolve_scale("sqrt_d_model", 3584) == math.sqrt(3584)
    assert resolve_scale(150, 8) == 150.0
    assert resolve_scale(None, 8) is None
    for bad in ("sqrt", 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive"):
            resolve_scale(bad, 8)


def test_to_norm_keeps_direction_and_leaves_zero_alone():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    y = to_norm(x, 10.0)
    assert y.tolist() == [[6.0, 8.0], [0.0, 0.0]]
    y.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert to_norm(x, None) is x


def test_replace_rows_touches_one_row_and_passes_gradients():
    embeddings = torch.zeros(2, 3, 4, requires_grad=True)
    vectors = torch.arange(8.0).view(2, 4).requires_grad_()
    out = replace_rows(embeddings, torch.tensor([2, 0]), vectors)
    assert torch.equal(out[0, 2], vectors[0]) and torch.equal(out[1, 0], vectors[1])
    assert out.count_nonzero() == 7 and embeddings.count_nonzero() == 0
    out.sum().backward()
    assert torch.equal(vectors.grad, torch.ones(2, 4))
    assert embeddings.grad[0, 2].sum() == 0 and embeddings.grad.sum() == 16


def test_norm_matched_add_doubles_a_parallel_row():
    residual = torch.tensor([[[1.0, 1.0], [3.0, 4.0]]])
    out = add_norm_matched(residual, torch.tensor([1]), torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(out, torch.tensor([[[1.0, 1.0], [6.0, 8.0]]]))
    half = add_norm_matched(residual, torch.tensor([1]), torch.tensor([[0.0, -9.0]]), 0.5)
    assert torch.allclose(half[0, 1], torch.tensor([3.0, 1.5]))
    zero = add_norm_matched(residual, torch.tensor([1]), torch.zeros(1, 2))
    assert torch.equal(zero, residual)


def test_check_vectors_says_what_was_found():
    check_vectors(torch.zeros(2, 4), 4)
    with pytest.raises(InputError, match=r"\(N, 5\), found \(2, 4\)"):
        check_vectors(torch.zeros(2, 4), 5)
    bad = torch.zeros(3, 4)
    bad[1, 2] = math.nan
    with pytest.raises(InputError, match=r"row 1 contains nan \(1 bad rows of 3\)"):
        check_vectors(bad, 4)
