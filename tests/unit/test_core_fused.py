"""Gradients written by hand: each against the plain form, and against differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from nlakit.core.fused import (
    Packing,
    attend_packed,
    head_logprobs,
    rms_norm,
    rotate,
    swiglu,
)

PACKING = Packing(shared=3, lengths=[4, 1, 2, 3], wanted=[2, 1, 0, 3])


def drawn(*size: int, seed: int = 0) -> Tensor:
    made = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_()


def plain_attention(q_QHd: Tensor, k_SKd: Tensor, v_SKd: Tensor, packing: Packing) -> Tensor:
    """Over the whole pack at once, with a mask."""
    places = packing.places()
    owner = torch.tensor(
        [0] * packing.shared + [n + 1 for n, m in enumerate(packing.lengths) for _ in range(m)]
    )
    sees = (owner[:, None] == owner) | (owner == 0)
    sees &= places[:, None] >= places
    asked = packing.asked()
    repeats = q_QHd.shape[1] // k_SKd.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1).transpose(0, 1) for x in (k_SKd, v_SKd))
    mixed = F.scaled_dot_product_attention(q_QHd.transpose(0, 1), k, v, attn_mask=sees[asked])
    return mixed.transpose(0, 1).flatten(1)


def test_a_packing_counts_places_and_queries():
    assert PACKING.places().tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 3, 4, 3, 4, 5]
    assert PACKING.asked().tolist() == [5, 6, 7, 10, 11, 12]
    assert PACKING.whole.asked().tolist() == list(range(13))
    assert [each.shared for each in PACKING.whole.segments()] == [0, 3, 3, 3, 3]


@pytest.mark.parametrize("packing", [PACKING, PACKING.whole, Packing(0, [2, 3], [2, 1])])
def test_packed_attention_is_attention_under_a_mask(packing):
    num_tokens, num_asked = len(packing.places()), len(packing.asked())
    q, k, v = drawn(num_asked, 4, 2), drawn(num_tokens, 2, 2, seed=1), drawn(num_tokens, 2, 2)
    expected = plain_attention(q, k, v, packing)
    assert torch.allclose(attend_packed(q, k, v, packing), expected)
    assert gradcheck(lambda *x: attend_packed(*x, packing), (q, k, v))


def test_parts_of_a_block_equal_their_plain_forms():
    x, y, weight = drawn(3, 4), drawn(3, 4, seed=1), drawn(4, seed=2)
    assert torch.allclose(rms_norm(x, weight, 0.1), F.rms_norm(x, (4,), weight, 0.1))
    assert gradcheck(lambda a, b: rms_norm(a, b, 0.1), (x, weight))
    assert torch.allclose(swiglu(x, y), F.silu(x) * y)
    assert gradcheck(swiglu, (x, y))


def test_rotation_is_hugging_faces():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, angles = drawn(3, 2, 4), drawn(3, 2).detach().repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=1)
    assert torch.allclose(rotate(x, cos, sin), expected)
    assert gradcheck(lambda a: rotate(a, cos, sin), (x,))


@pytest.mark.parametrize("kept", [0, 14, 100])
def test_head_logprobs_keep_what_they_may(monkeypatch, kept):
    # Two rows a chunk: with 14 logits kept the first chunk is, the others are made again.
    monkeypatch.setattr("nlakit.core.fused.CHUNK", 14)
    hidden, weight = drawn(5, 3), drawn(7, 3, seed=1)
    ids = torch.tensor([0, 6, 6, 2, 3])
    expected = (hidden @ weight.t()).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    assert torch.allclose(head_logprobs(hidden, weight, ids, kept), expected)
    assert gradcheck(lambda h, w: head_logprobs(h, w, ids, kept), (hidden, weight))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = drawn(5, 3), drawn(7, 3, seed=1).detach()
    head_logprobs(hidden, weight, torch.zeros(5, dtype=torch.long), 100).sum().backward()
    assert hidden.grad is not None and weight.grad is None
