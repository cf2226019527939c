"""Reward terms of joint RL."""

from __future__ import annotations

import math

import pytest
import torch

from nlakit.train.rewards import length_cost, reconstruction, shared_reconstruction, writing_quality


def test_a_code_of_the_own_reader_earns_its_share_only():
    own, other = torch.tensor([[0.1, 0.5]]), torch.tensor([[1.0, 0.5]])
    code, plain = shared_reconstruction(own, other, share=0.25)[0].tolist()
    assert code == pytest.approx(-0.75 * math.log(0.1))
    assert plain == pytest.approx(-math.log(0.5))
    assert torch.equal(shared_reconstruction(own, other, share=0.0), reconstruction(own))
    alone = shared_reconstruction(own, other, share=1.0)
    assert alone[0, 0] < alone[0, 1]


def test_language_is_free_and_noise_costs_by_the_nat():
    logprob, tokens = torch.tensor([[-6.0, -30.0, -2.0, 0.0]]), torch.tensor([[4, 6, 1, 0]])
    quality = writing_quality(logprob, tokens, enough=-2.0, cost=0.1)
    assert quality[0].tolist() == pytest.approx([0.0, -0.3, 0.0, 0.0])


def test_length_is_free_up_to_its_allowance():
    cost = length_cost(torch.tensor([[40, 50, 60]]), allowance=50, cost=0.01)
    assert cost[0].tolist() == pytest.approx([0.0, 0.0, -0.1])
