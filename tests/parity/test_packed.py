"""The packed training forward against Hugging Face's own, values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from nlakit.models import reconstructor as reconstructors
from nlakit.models import verbalizer as verbalizers
from nlakit.models.families import backbone_of
from nlakit.models.packed import fits
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer

RESPONSES = [[5, 6, 7], [9], [], [8, 7, 6, 5, 4]]


def gradients(run: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of the sum of squares, all in one row."""
    parameters = list(parameters)
    for each in parameters:
        each.grad = None
    run().square().sum().backward()
    return torch.cat([each.grad.flatten() for each in parameters if each.grad is not None])


def by_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing is packed, and logits go through autograd."""
    for module in (verbalizers, reconstructors):
        monkeypatch.setattr(module, "fits", lambda *_: False)
    monkeypatch.setattr(verbalizers, "is_plain", lambda _: False)


def test_logprobs_and_gradients_are_hugging_faces(model, tokenizer, av_meta, vectors, monkeypatch):
    verbalizer = Verbalizer(model, tokenizer, av_meta)
    assert fits(backbone_of(model), 60)

    def run() -> Tensor:
        return verbalizer.logprobs(vectors[:4], RESPONSES)[0]

    packed, values = gradients(run, model.parameters()), run()
    assert values[2].eq(0).all() and values[3].ne(0).all()
    by_hugging_face(monkeypatch)
    plain = gradients(run, model.parameters())
    assert torch.allclose(values, run(), atol=1e-5)
    assert (packed - plain).norm() / plain.norm() < 1e-5


def test_vectors_and_gradients_are_hugging_faces(model, tokenizer, ar_meta, monkeypatch):
    reconstructor = Reconstructor.from_target(model, tokenizer, ar_meta)
    ids = [reconstructor.encode(text) for text in ("the cat", "", "the cat sat on the mat")]

    def run() -> Tensor:
        return reconstructor.forward(ids)

    packed, values = gradients(run, reconstructor.parameters()), run()
    by_hugging_face(monkeypatch)
    plain = gradients(run, reconstructor.parameters())
    assert torch.allclose(values, run(), atol=1e-5)
    assert (packed - plain).norm() / plain.norm() < 1e-5


def test_prompts_that_share_nothing_are_packed_too(llama, tokenizer, ar_meta, monkeypatch):
    reconstructor = Reconstructor.from_target(llama, tokenizer, ar_meta)
    ids = [[4, 5, 6], [7], [4, 5]]
    found = reconstructor.forward(ids)
    by_hugging_face(monkeypatch)
    assert torch.allclose(found, reconstructor.forward(ids), atol=1e-5)


def test_only_what_is_plain_is_packed(llama):
    backbone = backbone_of(llama)
    assert fits(backbone, 60)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fits(backbone, 60)
    backbone.config.sliding_window = 40
    assert fits(backbone, 40) and not fits(backbone, 60)
    hook = backbone.layers[1].mlp.register_forward_pre_hook(lambda *_: None)
    assert not fits(backbone, 40)
    hook.remove()
    backbone.config.attention_dropout = 0.1
    assert fits(backbone, 40) and not fits(backbone.train(), 40)
    assert not fits(backbone.eval().bfloat16(), 40)
