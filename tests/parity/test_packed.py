"""The training forward against Hugging Face's own on whole rows, values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from support.families import CASES, make
from torch import Tensor, nn

from nlakit.core.losses import token_logprobs
from nlakit.models import forward
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of
from nlakit.models.forward import BlockEdit, runs_blocks
from nlakit.models.lora import adapter_state
from nlakit.models.precision import bring_to
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.learner import Learner, OptimizerConfig

RESPONSES = [[5, 6, 7], [9], [], [8, 7, 6, 5, 4]]
TEXTS = ("the cat", "", "the cat sat on the mat")


def gradients(run: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of the sum of squares, all in one row."""
    parameters = list(parameters)
    for each in parameters:
        each.grad = None
    run().square().sum().backward()
    return torch.cat([each.grad.flatten() for each in parameters if each.grad is not None])


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def plain_logprobs(verbalizer: Verbalizer, vectors: Tensor) -> Tensor:
    """Of `RESPONSES` in Hugging Face's forward of one whole row after another, B x T."""
    rows = []
    slot, scale = len(verbalizer.prefix_ids), verbalizer.injection_scale
    for vector, response in zip(vectors, RESPONSES, strict=False):
        ids = torch.tensor([[*verbalizer.prefix_ids, 0, *verbalizer.suffix_ids, *response]])
        embeds = verbalizer.model.get_input_embeddings()(ids)
        embeds = embeds.index_copy(
            1, torch.tensor([slot]), (vector / vector.norm() * scale)[None, None]
        )
        logits = verbalizer.model(inputs_embeds=embeds, use_cache=False).logits
        told = logits[:, logits.shape[1] - len(response) - 1 : -1]
        found = token_logprobs(told, torch.tensor([response], dtype=torch.long))[0]
        rows.append(torch.nn.functional.pad(found, (0, 5 - len(response))))
    return torch.stack(rows)


def plain_vectors(reconstructor: Reconstructor, ids: list[list[int]]) -> Tensor:
    """Hugging Face's forward of one prompt after another, B x D."""
    last = [reconstructor.backbone(torch.tensor([row])).last_hidden_state[0, -1] for row in ids]
    return reconstructor.head(torch.stack(last))


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    """A tiny model of each family, sliding windows among them."""
    return make(request.param, len(tokenizer))


def test_logprobs_and_gradients_are_hugging_faces(case, tokenizer, av_meta, vectors):
    verbalizer = Verbalizer(case, tokenizer, av_meta)

    def run() -> Tensor:
        return verbalizer.logprobs(vectors[:4], RESPONSES)[0]

    def plain() -> Tensor:
        return plain_logprobs(verbalizer, vectors[:4])

    values = run()
    assert values[2].eq(0).all() and values[3].ne(0).all()
    assert torch.allclose(values, plain(), atol=1e-4)
    parameters = list(case.parameters())
    assert difference(gradients(run, parameters), gradients(plain, parameters)) < 1e-5


def test_vectors_and_gradients_are_hugging_faces(case, tokenizer, ar_meta):
    reconstructor = Reconstructor.from_target(case, tokenizer, ar_meta)
    ids = [reconstructor.encode(text) for text in TEXTS]

    def run() -> Tensor:
        return reconstructor.forward(ids)

    def plain() -> Tensor:
        return plain_vectors(reconstructor, ids)

    assert torch.allclose(run(), plain(), atol=1e-4)
    parameters = list(reconstructor.parameters())
    assert difference(gradients(run, parameters), gradients(plain, parameters)) < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_adapters_and_their_gradients_are_pefts(family, tokenizer, av_meta, vectors):
    """In the fast blocks PEFT's modules are not called: their factors are."""
    view = adapted(make(family, len(tokenizer)), 4, 8, 0, "base")
    with torch.no_grad():
        for each in adapter_state(view).values():
            each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    verbalizer = Verbalizer(view, tokenizer, av_meta)
    found = gradients(lambda: verbalizer.logprobs(vectors[:4], RESPONSES)[0], view.parameters())
    expected = gradients(lambda: plain_logprobs(verbalizer, vectors[:4]), view.parameters())
    assert runs_blocks(backbone_of(view), 60) == (family != "qwen3")
    assert len(found) == sum(each.numel() for each in adapter_state(view).values())
    assert difference(found, expected) < 1e-5


def test_prompts_that_share_nothing_are_packed_too(llama, tokenizer, ar_meta):
    reconstructor = Reconstructor.from_target(llama, tokenizer, ar_meta)
    ids = [[4, 5, 6], [7], [4, 5]]
    assert torch.allclose(reconstructor.forward(ids), plain_vectors(reconstructor, ids), atol=1e-5)


def test_hugging_faces_modules_get_as_many_rows_as_a_mask_allows(
    tokenizer, av_meta, ar_meta, vectors, monkeypatch
):
    model = make("gpt2", len(tokenizer))
    verbalizer = Verbalizer(model, tokenizer, av_meta)
    reconstructor = Reconstructor.from_target(model, tokenizer, ar_meta)
    ids = [reconstructor.encode(text) for text in TEXTS]
    expected = verbalizer.logprobs(vectors[:4], RESPONSES)[0], reconstructor.forward(ids)
    assert len(verbalizer.pack(RESPONSES).packs) == 1
    monkeypatch.setattr(forward, "TOKENS_UNDER_A_MASK", 2)
    assert len(verbalizer.pack(RESPONSES).packs) == 3
    assert torch.allclose(verbalizer.logprobs(vectors[:4], RESPONSES)[0], expected[0], atol=1e-5)
    assert torch.allclose(reconstructor.forward(ids), expected[1], atol=1e-5)


def test_a_pack_serves_a_policy_and_its_reference(llama, tokenizer, av_meta, vectors):
    one, other = (Verbalizer(make("llama", len(tokenizer)), tokenizer, av_meta) for _ in range(2))
    packed = one.pack(RESPONSES)
    for each in (one, other):
        found, mask = each.packed_logprobs(vectors[:4], packed)
        expected, expected_mask = each.logprobs(vectors[:4], RESPONSES)
        assert torch.equal(found, expected) and torch.equal(mask, expected_mask)


def test_only_what_is_plain_is_run_by_our_blocks(llama):
    backbone = backbone_of(llama)
    assert runs_blocks(backbone, 60)
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_blocks(backbone, 60)
    assert runs_blocks(backbone, 60, BlockEdit(2, lambda x: x))
    assert not runs_blocks(backbone, 60, BlockEdit(3, lambda x: x))
    backbone.config.sliding_window = 40
    assert runs_blocks(backbone, 40) and not runs_blocks(backbone, 60)
    hook = backbone.layers[1].mlp.register_forward_pre_hook(lambda *_: None)
    assert not runs_blocks(backbone, 40)
    hook.remove()
    backbone.config.attention_dropout = 0.1
    assert runs_blocks(backbone, 40) and not runs_blocks(backbone.train(), 40)
    assert runs_blocks(backbone.eval().bfloat16(), 40)
    backbone.layers[1].mlp.float()
    assert not runs_blocks(backbone, 40)


def test_adapters_of_another_kind_are_left_to_peft(tokenizer):
    view = adapted(make("llama", len(tokenizer)), 4, 8, 0, "base")
    backbone = backbone_of(view)
    assert runs_blocks(backbone, 40)
    layer = backbone.layers[1].mlp.up_proj
    layer.enable_adapters(False)
    assert not runs_blocks(backbone, 40)
    layer.enable_adapters(True)
    layer.merge()
    assert not runs_blocks(backbone, 40)


def test_bfloat16_agrees_with_float32(llama, tokenizer, av_meta, vectors):
    verbalizer = Verbalizer(llama, tokenizer, av_meta)
    expected = verbalizer.logprobs(vectors[:4], RESPONSES)[0]
    llama.bfloat16()
    found = verbalizer.logprobs(vectors[:4], RESPONSES)[0]
    assert found.dtype == torch.float32 and (found - expected).abs().mean() < 0.1


def late_loss(precision, seed, tokenizer, av_meta):
    """The mean loss of the last ten of forty steps; rows, and their order, are the seed's."""
    verbalizer = Verbalizer(make("llama", len(tokenizer)), tokenizer, av_meta)
    bring_to(verbalizer.model, precision)
    config = OptimizerConfig(lr=3e-3, warmup_steps=4)
    learner = Learner(dict(verbalizer.model.named_parameters()), config, 40)
    seeds = torch.Generator().manual_seed(seed)
    vectors = torch.randn(32, 32, generator=seeds) * 7
    # Each answer repeats a token that its vector decides, and ends in noise.
    noise = torch.randint(5, 60, (32, 3), generator=seeds)
    answers = [[60 + int(v[0] > 0)] * 3 + n.tolist() for v, n in zip(vectors, noise, strict=True)]
    losses = []
    for step in range(40):
        rows = torch.randint(32, (8,), generator=seeds).tolist()
        logprobs, mask = verbalizer.logprobs(vectors[rows], [answers[row] for row in rows])
        loss = -(logprobs * mask).sum() / mask.sum()
        loss.backward()
        learner.update(step)
        losses.append(float(loss.detach()))
    assert sum(losses[:10]) > 1.3 * sum(losses[-10:])
    return sum(losses[-10:]) / 10


def test_bfloat16_learns_within_the_spread_of_three_seeds(tokenizer, av_meta):
    exact, half = (
        [late_loss(precision, seed, tokenizer, av_meta) for seed in range(3)]
        for precision in ("float32", "bfloat16")
    )
    spread = max(exact) - min(exact)
    for one, other in zip(exact, half, strict=True):
        assert 0 < abs(one - other) < spread
