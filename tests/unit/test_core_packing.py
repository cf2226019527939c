"""Packed sequences: positions, attention, joined projections and the head, against plain forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from nlakit.core import attention
from nlakit.core.attention import attention_over, varlen_keys
from nlakit.core.losses import head_logprobs
from nlakit.core.norm import rms_norm
from nlakit.core.packing import Packing
from nlakit.core.projection import Adapters, Maps, project, side_by_side

PACKING = Packing(shared=3, lengths=[4, 1, 2, 3], wanted=[2, 1, 0, 3])
UNEVEN = Packing(shared=2, lengths=[9, 3, 8, 9], wanted=[1, 3, 2, 9])
CPU = torch.device("cpu")


def drawn(*size: int, seed: int = 0) -> Tensor:
    made = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_()


def plain_attention(q_QHd: Tensor, k_SKd: Tensor, v_SKd: Tensor, packing: Packing) -> Tensor:
    """Over the whole pack at once, with a mask."""
    mask = packing.mask(None, q_QHd.dtype)[packing.queries()]
    repeats = q_QHd.shape[1] // k_SKd.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1).transpose(0, 1) for x in (k_SKd, v_SKd))
    mixed = F.scaled_dot_product_attention(q_QHd.transpose(0, 1), k, v, attn_mask=mask)
    return mixed.transpose(0, 1).flatten(1)


def test_a_packing_counts_positions_and_queries():
    assert PACKING.positions().tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 3, 4, 3, 4, 5]
    assert PACKING.queries().tolist() == [5, 6, 7, 10, 11, 12]
    assert PACKING.whole.queries().tolist() == list(range(PACKING.num_tokens))
    assert [each.shared for each in PACKING.whole.segments()] == [0, 3, 3, 3, 3]


def test_a_mask_shows_the_prefix_and_the_own_sequence_only():
    seen = Packing(2, [2, 1], [2, 1]).mask(None, torch.float32) == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    near = Packing(2, [2, 1], [2, 1]).mask(2, torch.float32) == 0
    assert near[3].int().tolist() == [0, 0, 1, 1, 0] and near[4].int().tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    "packing", [PACKING, PACKING.whole, UNEVEN, UNEVEN.whole, Packing(0, [2, 3], [2, 1])]
)
def test_packed_attention_is_attention_under_a_mask(packing):
    num_tokens, num_queries = packing.num_tokens, len(packing.queries())
    q, k, v = drawn(num_queries, 4, 2), drawn(num_tokens, 2, 2, seed=1), drawn(num_tokens, 2, 2)
    found = attention_over(packing, torch.float64, CPU, 2)
    kv = torch.cat([k, v], dim=1).detach().requires_grad_()
    assert torch.allclose(found(q, kv), plain_attention(q, k, v, packing))
    assert gradcheck(found, (q, kv))


def test_sequences_of_like_length_are_one_group_and_need_no_index():
    alike = Packing(1, [4, 4, 4], [4, 4, 4])
    found = attention_over(alike, torch.float32, CPU, 2)
    assert found.order_Q is None and isinstance(found.groups[0].queries, slice)
    assert found.groups[0].bias.shape == (1, 1, 4, 5)
    # The prefix is one of them where it is about as long.
    found = attention_over(Packing(3, [4, 4, 4], [4, 4, 4]).whole, torch.float32, CPU, 2)
    assert [each.num_sequences for each in found.groups] == [4]
    sizes = [9, 2, 8, 3, 9]
    uneven = attention_over(Packing(0, sizes, sizes), torch.float32, CPU, 2)
    assert [each.num_sequences for each in uneven.groups] == [3, 2]


def test_keys_of_flash_attention_repeat_the_prefix_once_for_each_sequence():
    """No key comes twice, and each sequence's are the prefix and its own, in order."""
    segments = list(PACKING.whole.segments())
    index, copies = varlen_keys(segments, PACKING.shared)
    assert copies == 4 and len(set(index.tolist())) == len(index)
    pack = torch.arange(PACKING.num_tokens)
    repeated = torch.cat([pack[:3].expand(copies, -1).flatten(), pack])[index]
    sizes = [each.shared + each.length for each in segments]
    seen = [each.tolist() for each in repeated.split(sizes)]
    assert seen[0] == [0, 1, 2] and seen[1] == [0, 1, 2, 3, 4, 5, 6] and seen[2] == [0, 1, 2, 7]
    assert varlen_keys(list(Packing(0, [2, 1], [2, 1]).segments()), 0)[1] == 0


def test_flash_attention_is_told_the_sequences(monkeypatch):
    """The kernel itself needs CUDA; a plain one in its place is given each sequence's tokens."""

    def kernel(q, k, v, queries, keys, most_queries, most_keys, window_size, enable_gqa):
        parts = []
        for n in range(len(queries) - 1):
            own_q = q[queries[n] : queries[n + 1]]
            own_k, own_v = (x[keys[n] : keys[n + 1]] for x in (k, v))
            assert len(own_q) <= most_queries and len(own_k) <= most_keys
            mask = torch.ones(len(own_q), len(own_k)).tril(len(own_k) - len(own_q)).bool()
            heads = (x.transpose(0, 1) for x in (own_q, own_k, own_v))
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)
            parts.append(mixed.transpose(0, 1))
        assert window_size == (-1, 0) and enable_gqa
        return torch.cat(parts)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(attention, "_takes_varlen", lambda *_: True)
    attention._causal.cache_clear()
    for packing in (PACKING, PACKING.whole, UNEVEN, Packing(0, [2, 3], [2, 1])):
        num_tokens, num_queries = packing.num_tokens, len(packing.queries())
        q, k, v = drawn(num_queries, 4, 2), drawn(num_tokens, 2, 2, seed=1), drawn(num_tokens, 2, 2)
        found = attention_over(packing, torch.float64, CPU, 2)(q, torch.cat([k, v], dim=1))
        assert torch.allclose(found, plain_attention(q, k, v, packing))
    attention._causal.cache_clear()


# -- linear maps -----------------------------------------------------------------------------------
def maps_of(kind: str) -> tuple[Maps, list[Tensor]]:
    """Two maps of width 3 and 2, and what of them is trained."""
    whole, bias = drawn(5, 5, seed=1), drawn(5, seed=3)
    weights, biases = [*whole.detach().split([3, 2])], [*bias.detach().split([3, 2])]
    if kind == "whole":
        trained = [each.clone().requires_grad_() for each in (*weights, *biases)]
        weight = whole.detach()
        return Maps(weight, weight.t(), (3, 2), bias.detach(), None, tuple(trained)), trained
    of = (1,) if kind == "one adapter" else (0, 1)
    downs = [drawn(2, 5, seed=5 + i) for i in of]
    ups = [drawn((3, 2)[i], 2, seed=7 + i) for i in of]
    down, views = torch.cat([each.detach() for each in downs]), [each.detach() for each in ups]
    adapters, weight = Adapters.make(of, down, views, 3.0), whole.detach()
    parameters = (*weights, *downs, *ups)
    return Maps(weight, weight.t(), (3, 2), None, adapters, parameters), [*downs, *ups]


def plain_projection(x: Tensor, maps: Maps, trained: list[Tensor]) -> Tensor:
    """One map after another, of the parameters that take the gradients."""
    if maps.adapters is None:
        weights, biases = trained[:2], trained[2:]
        return torch.cat([F.linear(x, *pair) for pair in zip(weights, biases, strict=True)], dim=1)
    outputs = list(F.linear(x, maps.weight).split([*maps.widths], dim=1))
    downs, ups = trained[: len(trained) // 2], trained[len(trained) // 2 :]
    for index, down, up in zip(maps.adapters.of, downs, ups, strict=True):
        change = F.linear(F.linear(x, down), up)
        outputs[index] = outputs[index] + maps.adapters.scale * change
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", ["whole", "adapters", "one adapter"])
def test_joined_projections_equal_one_after_another(kind, residual):
    x, start = drawn(4, 5, seed=9), drawn(4, 5, seed=10) if residual else None
    maps, trained = maps_of(kind)
    found = project(x, maps, start)
    expected = plain_projection(x, maps, trained)
    expected = expected if start is None else expected + start
    assert torch.allclose(found, expected)
    leaves = [x, *trained] if start is None else [x, start, *trained]
    g = drawn(4, 5, seed=11).detach()
    grads = (torch.autograd.grad((each * g).sum(), leaves) for each in (found, expected))
    for found_grad, expected_grad in zip(*grads, strict=True):
        assert torch.allclose(found_grad, expected_grad)


def test_a_float32_adapter_learns_on_a_bfloat16_base():
    x = torch.randn(6, 8).bfloat16().requires_grad_()
    down, up = (torch.randn(*size).requires_grad_() for size in ((2, 8), (4, 2)))
    weight = torch.randn(4, 8).bfloat16()
    adapters = Adapters.make((0,), down.detach(), (up.detach(),), 2.0)
    found = project(x, Maps(weight, weight.t(), (4,), None, adapters, (weight, down, up)))
    grads = torch.autograd.grad(found.float().square().sum(), [down, up])
    assert found.dtype == torch.bfloat16 and all(g.dtype == torch.float32 for g in grads)
    plain = F.linear(x.float(), weight.float()) + 2 * F.linear(F.linear(x.float(), down), up)
    for found_grad, exact in zip(
        grads, torch.autograd.grad(plain.square().sum(), [down, up]), strict=True
    ):
        assert (found_grad - exact).norm() < 0.03 * exact.norm()


def test_tensors_that_follow_each_other_are_seen_as_one():
    whole = torch.arange(12.0).view(6, 2)
    first, second, third = whole.split([1, 3, 2])
    assert torch.equal(side_by_side([first, second, third]), whole)
    assert side_by_side([first, third]) is None and side_by_side([second, first]) is None
    assert side_by_side([first, second.clone()]) is None
    joined = side_by_side([second, third])
    assert joined is not None
    joined.zero_()
    assert whole[1:].eq(0).all() and whole[0].tolist() == [0, 1]


def test_the_cpus_norm_is_torchs():
    x, weight = drawn(3, 4), drawn(4, seed=2)
    assert torch.allclose(rms_norm(x, weight, 0.1), F.rms_norm(x, (4,), weight, 0.1))
    assert gradcheck(lambda a, b: rms_norm(a, b, 0.1), (x, weight))
    half, scale = x.detach().bfloat16(), weight.detach().bfloat16()
    found, expected = rms_norm(half, scale, 0.1), F.rms_norm(half, (4,), scale, 0.1)
    assert found.dtype == torch.bfloat16 and torch.allclose(found, expected, atol=1e-2)


# -- the language head -----------------------------------------------------------------------------
@pytest.mark.parametrize("kept", [0, 14, 100])
def test_head_logprobs_keep_what_they_may(monkeypatch, kept):
    # Two rows a chunk: with 14 logits kept the first chunk is, the others are computed again.
    monkeypatch.setattr("nlakit.core.losses.CHUNK", {"cpu": 14})
    hidden, weight = drawn(5, 3), drawn(7, 3, seed=1)
    ids = torch.tensor([0, 6, 6, 2, 3])
    expected = (hidden @ weight.t()).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    assert torch.allclose(head_logprobs(hidden, weight, ids, kept), expected)
    assert gradcheck(lambda h, w: head_logprobs(h, w, ids, kept), (hidden, weight))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = drawn(5, 3), drawn(7, 3, seed=1).detach()
    head_logprobs(hidden, weight, torch.zeros(5, dtype=torch.long), 100).sum().backward()
    assert hidden.grad is not None and weight.grad is None


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_bfloat16_head_is_as_exact_as_its_logits(kept):
    made = torch.Generator().manual_seed(5)
    hidden = (torch.randn(9, 16, generator=made) * 2).bfloat16().requires_grad_()
    weight = (torch.randn(50, 16, generator=made)).bfloat16().requires_grad_()
    ids = torch.arange(9)
    found = head_logprobs(hidden, weight, ids, kept)
    grads = torch.autograd.grad(found.square().sum(), [hidden, weight])
    exact = [each.detach().float().requires_grad_() for each in (hidden, weight)]
    logits = exact[0] @ exact[1].t()
    plain = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    # Two logits enter, the token's and the largest, each rounded to eight bits of its size.
    rounding = 2 * logits.abs().max().item() * 2**-8
    assert found.dtype == torch.float32 and (found - plain).abs().max() < rounding
    exact_grads = torch.autograd.grad(plain.square().sum(), exact)
    for found_grad, exact_grad in zip(grads, exact_grads, strict=True):
        assert (found_grad.float() - exact_grad).norm() < 0.03 * exact_grad.norm()
