"""Steering by edited words, and forward passes with a changed activation."""

from __future__ import annotations

import pytest
import torch
from tests.support.serving import tiny_nla

from nlakit.errors import InputError
from nlakit.models.patch import continuations, next_logprobs
from nlakit.pair.steer import edit_words, steering_vector


@pytest.fixture(scope="module")
def nla():
    return tiny_nla()


@pytest.fixture(scope="module")
def ids(nla):
    texts = ("The lonely boat drifted near the quay", "A calm morning")
    return [nla.target.encode(text).ids for text in texts]


def test_words_are_replaced_whole_and_all_at_once():
    assert edit_words("a cat, a catfish", {"cat": "dog"}) == "a dog, a catfish"
    assert edit_words("cat and dog", {"cat": "dog", "dog": "cat"}) == "dog and cat"
    assert edit_words("cat", "a whole new text") == "a whole new text"


@pytest.mark.parametrize(
    ("edit", "message"),
    [({"ca": "x"}, "'ca'"), ({}, "empty"), ({"cat": "cat"}, "as it is"), ("a cat", "as it is")],
)
def test_edits_that_change_nothing_are_refused(edit, message):
    with pytest.raises(InputError, match=message):
        edit_words("a cat", edit)


def test_added_vector_is_a_share_of_the_activation_s_length():
    added = steering_vector(torch.tensor([0.0, 0.3]), torch.tensor([3.0, 4.0]), 0.5)
    torch.testing.assert_close(added, torch.tensor([0.0, 2.5]))
    assert not steering_vector(torch.zeros(2), torch.ones(2), 1.0).any()


def test_own_activation_put_back_changes_nothing(nla, ids):
    last = [[len(row) - 1] for row in ids]
    own = torch.cat(nla.target.activations(ids, last))
    clean = next_logprobs(nla.target, ids)
    torch.testing.assert_close(next_logprobs(nla.target, ids, own), clean, atol=1e-5, rtol=1e-4)
    moved = next_logprobs(nla.target, ids, own.flip(0))
    assert (moved - clean).abs().max() > 0.1
    # The change is gone with the run that it was for.
    torch.testing.assert_close(next_logprobs(nla.target, ids), clean)


def test_bad_replacements_are_refused(nla, ids):
    with pytest.raises(InputError, match="2 sequences"):
        next_logprobs(nla.target, ids, torch.ones(1, 8))
    with pytest.raises(InputError, match="Position 99"):
        continuations(nla.target, ids, positions=[0, 99])


def plain_continuation(target, ids, added, place, num, once):
    """Token by token over the whole sequence, nothing cached or padded."""
    changed = slice(place, place + 1 if once else None)
    block = target.model.model.layers[target.site.layer]

    def hook(module, inputs, output):
        output = output.clone()
        output[:, changed] += added
        return output

    handle = block.register_forward_hook(hook)
    row = list(ids)
    with torch.no_grad():
        for _ in range(num):
            row.append(int(target.model(torch.tensor([row])).logits[0, -1].argmax()))
    handle.remove()
    return row[len(ids) :]


@pytest.mark.parametrize("once", [True, False])
def test_continuations_are_those_of_each_sequence_alone(nla, ids, once):
    added = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)) * 20
    places = [4, 2]
    together = continuations(nla.target, ids, added, places, max_new_tokens=6, once=once)
    alone = [
        plain_continuation(nla.target, *row, 6, once)
        for row in zip(ids, added, places, strict=True)
    ]
    assert together == alone
    assert together != continuations(nla.target, ids, max_new_tokens=6)


def test_steering_ends_where_the_context_does(nla):
    row = (nla.target.encode("The sea.").ids * 200)[: nla.target.max_tokens - 2]
    assert len(continuations(nla.target, [row], max_new_tokens=6)[0]) == 2


def test_nla_steers_by_a_new_explanation(nla):
    found = nla.steer("The lonely boat drifted", -1, "A calm tale.", alpha=50.0, max_new_tokens=5)
    assert found.edited == "A calm tale."
    assert found.shift > 0
    again = nla.steer("The lonely boat drifted", -1, "A calm tale.", alpha=0.0, max_new_tokens=5)
    assert not again.changed
    assert again.plain == found.plain


@pytest.mark.parametrize("position", [99, -99])
def test_position_outside_the_text_is_refused(nla, position):
    with pytest.raises(InputError, match=str(position)):
        nla.steer("A calm morning", position, {"a": "b"})


def test_strength_that_is_no_number_is_refused(nla):
    with pytest.raises(InputError, match="nan"):
        nla.steer("A calm morning", -1, "new", alpha=float("nan"))
