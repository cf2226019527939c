"""Texts that lead the target to a given activation."""

from __future__ import annotations

import pytest
import torch

from nlakit.errors import InputError
from nlakit.evals.inversion import Search, invert
from nlakit.storyworld.grammar import document
from nlakit.worlds.storyworld.documents import encode_document

EVERY_TOKEN = 10_000


@pytest.fixture(scope="module")
def prefix(tiny_target) -> list[int]:
    return encode_document(tiny_target, document(7, 2)).ids[:20]


def activation(target, ids):
    return target.activations([ids], [[len(ids) - 1]])[0][0]


def replaced(ids: list[int], place: int) -> list[int]:
    changed = list(ids)
    changed[place] = changed[place] + 1
    return changed


@pytest.mark.parametrize("place", [-1, -2])
def test_a_changed_token_is_found_again(tiny_target, prefix, place):
    wanted_D = activation(tiny_target, prefix)
    search = Search(window=2, candidates=EVERY_TOKEN, sweeps=3)
    found = invert(tiny_target, wanted_D, replaced(prefix, place), search)
    assert found.ids == prefix
    assert found.error == pytest.approx(0, abs=1e-5)


def test_what_is_found_is_nearer_and_its_activation_is_the_target_s(tiny_target, prefix):
    wanted_D = torch.randn(tiny_target.d_model, generator=torch.Generator().manual_seed(3))
    none, some = (invert(tiny_target, wanted_D, prefix, Search(3, 40, n)) for n in (0, 2))
    assert none.ids == prefix
    assert some.error < none.error
    assert some.ids[:-3] == prefix[:-3]
    torch.testing.assert_close(
        some.activation_D, activation(tiny_target, some.ids), atol=1e-5, rtol=1e-5
    )
    cosine = torch.cosine_similarity(some.activation_D, wanted_D, dim=0).item()
    assert some.error == pytest.approx(2 * (1 - cosine), abs=1e-5)


def test_window_is_no_wider_than_the_text(tiny_target, prefix):
    found = invert(tiny_target, activation(tiny_target, prefix), prefix[:2], Search(window=8))
    assert (len(found.ids), found.ids[0]) == (2, prefix[0])
    with pytest.raises(InputError, match="2 tokens or more, found 1"):
        invert(tiny_target, torch.ones(tiny_target.d_model), prefix[:1], Search())
