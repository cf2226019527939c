"""Inverse-CDF sampling."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nlakit.core.sampling import draw_rows, sample_rows

LOGITS = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))


def draw(u, temperature=1.0, top_p=1.0, logits=LOGITS):
    return sample_rows(logits, torch.tensor([u]), temperature, top_p).item()


def test_uniform_picks_by_cumulative_mass():
    assert [draw(u) for u in (0.0, 0.19, 0.21, 0.69, 0.71, 0.999)] == [0, 0, 1, 1, 2, 2]


def test_temperature_zero_is_argmax_and_cold_is_nearly_so():
    assert draw(0.999, temperature=0.0) == 1
    assert draw(0.99, temperature=0.05) == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-40, 1e-30, 9e-6])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_tiny_temperatures_are_greedy(temperature, top_p):
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    found = sample_rows(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]), temperature, top_p)
    assert found.tolist() == logits.argmax(dim=-1).tolist()


def test_numbers_that_are_none_stay_inside_the_vocabulary():
    logits = torch.full((2, 200), torch.nan)
    assert sample_rows(logits, torch.tensor([0.0, 0.99]), 1.0).max().item() < 200


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


def reference(logits, uniform, temperature, top_p):
    """The definition, in float64: sort, cut, accumulate."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        sorted_probs, order = probs.sort(dim=-1, descending=True, stable=True)
        before = sorted_probs.cumsum(-1) - sorted_probs
        probs = sorted_probs.masked_fill(before >= top_p, 0.0)
    cdf = probs.cumsum(-1)
    target = uniform.double()[:, None] * cdf[:, -1:]
    found = torch.searchsorted(cdf, target, right=True)
    return order.gather(1, found)[:, 0] if top_p < 1 else found[:, 0]


@pytest.mark.parametrize("num_columns", [50, 64, 1000, 20_000])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.9), (2.0, 0.5)])
def test_blocks_draw_what_the_definition_says(num_columns, temperature, top_p, monkeypatch):
    monkeypatch.setattr("nlakit.core.sampling.CACHED", 20_000)  # one row at a time, or many
    generator = torch.Generator().manual_seed(num_columns)
    spread = torch.tensor([[1.0], [3.0], [8.0], [30.0]])
    logits = torch.randn(4, num_columns, generator=generator) * spread
    # Equals: the earlier of them comes first in the nucleus.
    logits[3, 10:33] = logits[3].amax() + 1
    uniform = torch.rand(4, generator=generator)
    found = draw_rows(logits, uniform, temperature, top_p)
    assert found.ids_B.tolist() == reference(logits, uniform, temperature, top_p).tolist()
    expected = torch.log_softmax(logits.double(), -1).gather(1, found.ids_B[:, None])[:, 0]
    assert torch.allclose(found.logprobs_B.double(), expected, atol=1e-4)


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(2, 300)
    logits[0, [70, 71, 299]] = 1.0
    assert draw_rows(logits, torch.zeros(2), 0.0).ids_B.tolist() == [70, 0]
