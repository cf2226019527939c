"""Inverse-CDF sampling."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nlakit.core.sampling import sample_rows

LOGITS = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))


def draw(u, temperature=1.0, top_p=1.0, logits=LOGITS):
    return sample_rows(logits, torch.tensor([u]), temperature, top_p).item()


def test_uniform_picks_by_cumulative_mass():
    assert [draw(u) for u in (0.0, 0.19, 0.21, 0.69, 0.71, 0.999)] == [0, 0, 1, 1, 2, 2]


def test_temperature_zero_is_argmax_and_cold_is_nearly_so():
    assert draw(0.999, temperature=0.0) == 1
    assert draw(0.99, temperature=0.05) == 1


def test_top_p_keeps_the_smallest_sufficient_set():
    assert {draw(u / 100, top_p=0.5) for u in range(100)} == {1}
    assert {draw(u / 100, top_p=0.6) for u in range(100)} == {1, 2}
    assert draw(0.9, top_p=1e-12) == 1


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert [draw(u, logits=logits) for u in (0.0, 0.5, 1 - 2**-24)] == [1, 1, 1]


@given(st.floats(0, 1, exclude_max=True, width=32), st.sampled_from([0.3, 0.9, 1.0]))
def test_a_row_does_not_depend_on_its_batch(u, top_p):
    others = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    batch = torch.cat([others, LOGITS])
    uniform = torch.tensor([0.5] * 5 + [u])
    assert sample_rows(batch, uniform, 1.0, top_p)[-1].item() == draw(u, top_p=top_p)
