"""Half precision in training: float32 master copies, buffers that stay, and micro-batches."""

from __future__ import annotations

import torch
from support.families import make
from torch import nn

from nlakit.core.packing import Packing
from nlakit.models import precision
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of
from nlakit.models.forward import run_packed
from nlakit.models.lora import adapter_state
from nlakit.models.precision import bring_to, compute_dtype
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.micro_batches import TOKENS_ON_CPU, bytes_per_token, micro_batches, token_budget
from nlakit.train.run import RunDirectory

SLOW = OptimizerConfig(lr=1e-4, warmup_steps=0, final_fraction=1.0, weight_decay=0.0)


def half_learner() -> tuple[nn.Linear, Learner]:
    torch.manual_seed(0)
    linear = nn.Linear(8, 4).bfloat16()
    with torch.no_grad():
        linear.weight.fill_(1.0)
    return linear, Learner(dict(linear.named_parameters()), SLOW, 100)


def step(linear: nn.Linear, learner: Learner, number: int) -> None:
    linear(torch.ones(2, 8).bfloat16()).float().sum().backward()
    learner.update(number)


def test_updates_too_small_for_bfloat16_add_up():
    linear, learner = half_learner()
    step(linear, learner, 0)
    # 1 - 1e-4 is 1 in bfloat16.
    assert linear.weight.eq(1).all() and learner.parameters["weight"].lt(1).all()
    for number in range(1, 60):
        step(linear, learner, number)
    assert linear.weight.dtype == torch.bfloat16 and linear.weight.lt(1).all()
    assert linear.weight.grad is None
    assert torch.equal(linear.weight, learner.parameters["weight"].bfloat16())


def test_a_resumed_learner_goes_on_from_its_master_copies(tmp_path):
    (first, kept), (second, resumed) = half_learner(), half_learner()
    step(first, kept, 0)
    run = RunDirectory(tmp_path, SLOW)
    run.save(1, {"av": kept}, {})
    run.resume({"av": resumed})
    for number in range(1, 40):
        step(first, kept, number)
        step(second, resumed, number)
    for name, master in kept.parameters.items():
        assert torch.equal(resumed.parameters[name], master)
    assert torch.equal(first.weight, second.weight)


def test_a_bad_gradient_leaves_weights_and_master_copies():
    linear, learner = half_learner()
    (linear.weight.float().sum() * float("nan")).backward()
    learner.update(0)
    assert learner.skipped == 1 and linear.weight.eq(1).all()
    assert learner.parameters["weight"].eq(1).all() and linear.weight.grad is None


def test_auto_is_what_the_hardware_multiplies_fast(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _, fast=fast: fast)
        assert compute_dtype("auto", "cpu") == expected
    assert compute_dtype("float32", "cuda") == torch.float32
    assert compute_dtype("bfloat16", "cpu") == torch.bfloat16


def test_weights_are_converted_and_buffers_are_not():
    base = make("llama", 64)
    view = adapted(base, 4, 8, 0, "base")
    frequencies = base.model.rotary_emb.inv_freq.clone()
    bring_to(view, "bfloat16")
    assert {each.dtype for each in view.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in base.parameters()} == {torch.bfloat16}
    assert torch.equal(base.model.rotary_emb.inv_freq, frequencies)
    assert all(each.requires_grad for each in adapter_state(view).values())


# -- micro-batches ---------------------------------------------------------------------------------
def test_micro_batches_hold_as_many_tokens_as_they_may():
    tokens = [9, 2, 7, 3, 50, 4, 1]
    found = list(micro_batches([0, 1, 2, 3, 4, 5], tokens, None, 10))
    assert found == [[1, 3, 5], [2], [0], [4]]
    assert sorted(row for batch in found for row in batch) == [0, 1, 2, 3, 4, 5]
    assert list(micro_batches([4, 0, 6], tokens, 2, 1)) == [[6, 0], [4]]
    assert list(micro_batches([], tokens, None, 10)) == []


def test_the_budget_of_an_accelerator_is_its_free_memory(monkeypatch):
    backbone = backbone_of(make("llama", 64))
    assert token_budget(backbone, False) == TOKENS_ON_CPU
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 2 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5 * 10**8)

    class OnCuda:
        """A model on an accelerator, as far as the budget looks at it."""

        config, dtype = backbone.config, torch.bfloat16
        parameters = staticmethod(lambda: iter([torch.empty(0, device="meta")]))

    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    each = bytes_per_token(backbone.config, 2, False)
    assert token_budget(OnCuda, False) == int(0.6 * 1.5e9 / each)
    assert token_budget(OnCuda, True) > 1.5 * token_budget(OnCuda, False)


def test_the_estimate_is_what_a_forward_keeps():
    """Bytes that autograd saves for a token, counted, where sequences are short."""
    model = make("llama", 64).bfloat16()
    backbone, kept = backbone_of(model), {}
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    embedded = torch.randn(256, 32).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_packed(backbone, embedded, Packing(0, [4] * 64, [4] * 64))
    found = sum(size for size, _ in kept.values()) / 256
    assert 0.9 * found < bytes_per_token(backbone.config, 2, False) < 1.5 * found
