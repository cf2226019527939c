"""Losses against values worked out by hand."""

import math

import pytest
import torch

from nlakit.core.losses import group_advantages, kl_k3, masked_mean, policy_loss, token_logprobs

MASK = torch.tensor([[True, True], [True, False]])


def test_token_logprobs_are_float32_for_bfloat16_logits():
    logits = torch.tensor([[[0.0, 0.0], [1.0, 3.0]]], dtype=torch.bfloat16)
    found = token_logprobs(logits, torch.tensor([[1, 0]]))
    assert found.dtype == torch.float32
    assert found[0].tolist() == pytest.approx([-math.log(2), -math.log(1 + math.e**2)])


def test_advantages_centre_each_group_and_survive_equal_rewards():
    found = group_advantages(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    assert found[0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-3)
    assert found[1].tolist() == [0.0, 0.0]
    assert group_advantages(torch.tensor([[2.0]])).item() == 0.0


def test_masked_mean_weighs_tokens_not_rows():
    x = torch.tensor([[1.0, 2.0], [6.0, math.nan]])
    assert masked_mean(x, MASK).item() == 3.0
    assert masked_mean(x, torch.zeros_like(MASK)).item() == 0.0


def test_policy_gradient_on_policy_is_the_advantage_over_tokens():
    logprobs = torch.zeros(2, 2, requires_grad=True)
    old = torch.tensor([[0.0, 0.0], [0.0, -1e9]])
    policy_loss(logprobs, old, torch.tensor([3.0, -6.0]), MASK, 0.2).backward()
    assert torch.allclose(logprobs.grad, torch.tensor([[-1.0, -1.0], [2.0, 0.0]]))


def test_clip_stops_the_gradient_only_on_the_gaining_side():
    logprobs = torch.log(torch.tensor([[1.5, 1.5], [1.5, 1.0]])).requires_grad_()
    old = torch.zeros(2, 2)
    loss = policy_loss(logprobs, old, torch.tensor([1.0, -1.0]), MASK, 0.2)
    assert loss.item() == pytest.approx(-(1.2 + 1.2 - 1.5) / 3)
    loss.backward()
    assert logprobs.grad[0].tolist() == [0.0, 0.0] and logprobs.grad[1, 0] > 0
    free = policy_loss(logprobs, old, torch.tensor([1.0, -1.0]), MASK, None)
    assert free.item() == pytest.approx(-0.5)


def test_k3_is_never_negative_and_right_on_average():
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    k3 = kl_k3(p.log()[None], q.log()[None])[0]
    assert (k3 >= 0).all()
    assert (p * k3).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
