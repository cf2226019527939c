"""The forwards and figures of sparse autoencoders against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nlakit.core.saes import losses, metrics
from nlakit.core.saes.affine import (
    Affine,
    decode,
    layer_normalized,
    norm_rescaled,
    pre_activations,
    with_unit_directions,
    without_input_scale,
)
from nlakit.core.saes.sparsity import (
    batch_top_k,
    gated,
    jump_relu,
    smallest_active,
    top_k,
    trained_jump_relu,
    trained_l0,
)

X = torch.tensor([[1.0, 2.0]])
HAND = Affine(
    W_enc_DM=torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]]),
    b_enc_M=torch.tensor([0.0, 0.0, 0.1]),
    W_dec_MD=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]),
    b_dec_D=torch.tensor([0.5, 0.0]),
)


def close(found, expected):
    return torch.allclose(found, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("subtract", "pre", "output"),
    [(True, [[0.5, 2.0, 0.6]], [[-0.1, 2.6]]), (False, [[1.0, 2.0, 0.1]], [[1.5, 2.0]])],
)
def test_two_conventions_of_the_decoder_bias_give_two_outputs(subtract, pre, output):
    found = pre_activations(X, HAND, subtract_b_dec=subtract)
    assert close(found, pre)
    assert close(decode(top_k(found, 2), HAND), output)
    assert close(decode(jump_relu(found, torch.tensor(0.55)), HAND), output)


def test_a_pre_activation_at_the_threshold_is_not_active():
    pre = torch.tensor([[0.5, 0.5001, -1.0]])
    assert close(jump_relu(pre, torch.tensor([0.5, 0.5, -2.0])), [[0.0, 0.5001, 0.0]])


def test_top_k_keeps_nothing_below_zero():
    assert top_k(torch.tensor([[-1.0, 3.0, -0.5]]), 2).tolist() == [[0.0, 3.0, 0.0]]


def test_batch_top_k_gives_a_row_that_needs_more_the_budget_of_another():
    pre = torch.tensor([[5.0, 4.0, 3.0], [1.0, 0.5, 0.2]])
    kept = batch_top_k(pre, 2)
    assert kept.tolist() == [[5.0, 4.0, 3.0], [1.0, 0.0, 0.0]]
    assert smallest_active(kept).item() == 1.0
    assert smallest_active(torch.zeros(2, 3)).item() == 0.0


def test_a_gate_decides_and_a_magnitude_says_how_much():
    projected = torch.tensor([[1.0, -1.0]])
    found = gated(
        projected,
        b_gate_M=torch.tensor([-0.5, 2.0]),
        r_mag_M=torch.tensor([math.log(2), 0.0]),
        b_mag_M=torch.tensor([0.5, 3.0]),
    )
    assert close(found, [[2.5, 2.0]])
    shut = gated(projected, torch.tensor([-1.0, 1.0]), torch.zeros(2), torch.ones(2))
    assert shut.tolist() == [[0.0, 0.0]]  # a gate at exactly 0 is shut


def test_folding_norms_changes_latents_and_no_output():
    pre = pre_activations(X, HAND, subtract_b_dec=True)
    unit, norms = with_unit_directions(HAND)
    folded = pre_activations(X, unit, subtract_b_dec=True)
    assert close(folded, [[0.5, 2.0, 0.6 * math.sqrt(2)]])
    threshold = torch.tensor([0.55, 0.55, 0.55])
    before = decode(jump_relu(pre, threshold), HAND)
    assert torch.allclose(decode(jump_relu(folded, threshold * norms), unit), before, atol=1e-6)


def test_folding_the_scale_of_the_input_leaves_latents_alone():
    scaled = pre_activations(3 * X, HAND, subtract_b_dec=True)
    raw = without_input_scale(HAND, 3.0)
    assert torch.allclose(pre_activations(X, raw, subtract_b_dec=True), scaled, atol=1e-6)
    assert torch.allclose(3 * decode(scaled.relu(), raw), decode(scaled.relu(), HAND), atol=1e-6)


def test_normalizations_are_undone_by_what_they_return():
    x = torch.tensor([[1.0, 2.0, 6.0], [0.5, 0.0, -0.5]])
    for normalize in (layer_normalized, norm_rescaled):
        found = normalize(x)
        assert torch.allclose(found.inner_ND * found.scale_N1 + found.mean_N1, x, atol=1e-4)
    assert layer_normalized(x).inner_ND[0].std().item() == pytest.approx(1, abs=1e-4)
    assert norm_rescaled(x).inner_ND.norm(dim=-1).tolist() == pytest.approx([3**0.5] * 2)


def test_a_threshold_learns_from_what_lies_close_to_it():
    pre = torch.tensor([[0.52, 0.9, 0.45]])
    threshold = nn.Parameter(torch.full((3,), 0.5))
    trained_jump_relu(pre, threshold, 0.2).sum().backward()
    assert close(threshold.grad, [-0.5 / 0.2, 0.0, -0.5 / 0.2])
    threshold.grad = None
    l0 = trained_l0(pre, threshold, 0.2)
    assert l0.tolist() == [2.0]
    l0.sum().backward()
    assert close(threshold.grad, [-5.0, 0.0, -5.0])


def test_prefixes_add_up_to_the_full_error():
    latents = torch.tensor([[1.0, 2.0, 0.5]])
    full = losses.squared_error(X, decode(latents, HAND))
    first = losses.squared_error(X, torch.tensor([[1.5, 0.0]]))
    assert close(losses.prefix_error(X, latents, HAND, [1, 3]), (first + full).item())


def test_dead_latents_are_asked_for_what_is_left_over():
    residual = torch.tensor([[0.0, 1.0]])
    pre = torch.tensor([[9.0, 0.25, -1.0]])
    dead = torch.tensor([False, True, True])
    assert losses.dead_latents_error(residual, pre, ~torch.ones(3).bool(), HAND.W_dec_MD, 1) == 0
    found = losses.dead_latents_error(residual, pre, dead, HAND.W_dec_MD, 1)
    assert found.item() == pytest.approx(0.75**2)
    scaled = losses.dead_latents_error(residual, pre, dead, HAND.W_dec_MD, 4)
    assert scaled.item() == pytest.approx(0.75**2 / 2)


def test_the_gate_teaches_the_encoder_and_not_the_decoder():
    weights = Affine(*(nn.Parameter(part.clone()) for part in HAND))
    gate = X @ weights.W_enc_DM
    losses.gate_error(X, gate, weights).backward()
    assert weights.W_enc_DM.grad is not None
    assert weights.W_dec_MD.grad is None


def test_contrast_of_equal_pairs_that_are_orthogonal():
    z = torch.eye(2)
    expected = 2 * math.log((math.e + 1) / math.e)
    assert losses.contrastive(z, z).item() == pytest.approx(expected, abs=1e-6)
    assert losses.contrastive(z, z.flip(0)).item() > expected


def test_kl_is_from_the_original_to_the_changed():
    original = torch.tensor([[0.9, 0.1]]).log()
    changed = torch.tensor([[0.5, 0.5]]).log()
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert losses.output_kl(original, changed).item() == pytest.approx(expected, abs=1e-6)


def test_fve_counts_a_constant_error():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert metrics.fraction_of_variance(x, x + torch.tensor([0.5, 0.0])) == 0.875
    assert metrics.fraction_of_variance(x, x) == 1.0
    assert metrics.fraction_of_variance(x, x.mean(0).expand_as(x)) == 0.0


def test_what_is_recovered_of_the_damage():
    assert metrics.recovered(clean=2.0, ablated=6.0, spliced=3.0) == 0.75
    assert metrics.recovered(2.0, 2.0, 3.0) is None


def test_smoothness_is_the_largest_step_over_the_distance():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    latents = torch.tensor([[0.0, 0.0, 1.0], [5.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    found = metrics.steps_of_latents(latents, x)
    assert found[[0, 2]].tolist() == [2.0, 0.0]
    assert found[1].isnan()


def test_f1_of_a_latent_that_says_too_much_and_one_that_says_nothing():
    active = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 0]]).bool()
    fact = torch.tensor([True, True, False, False])
    assert metrics.count(active, fact).f1_M.tolist() == [pytest.approx(0.8), 0.0]


def test_jaccard_and_nearest_directions():
    first = torch.tensor([[True, True, False], [False, False, False]])
    second = torch.tensor([[True, False, True], [False, False, False]])
    assert metrics.jaccard(first, second).tolist() == [pytest.approx(1 / 3), 0.0]
    directions = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    cosine, index = metrics.max_cosines(directions, directions, same=True)
    assert index.tolist() == [1, 0]
    assert cosine.tolist() == pytest.approx([0.5**0.5] * 2)
