"""Bases of 4 and 8 bits by bitsandbytes itself, which runs on a CPU as well."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from support.families import make

from nlakit.errors import ConfigError
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of, truncated
from nlakit.models.lora import adapter_state
from nlakit.models.quantized import quantize
from nlakit.train.checkpoint_recipe import LoraConfig

VOCABULARY = 64
IDS = torch.arange(24).view(2, 12)
# Bounds of the relative error of a product: less is not rounded, more has a wrong scale.
ERRORS = {4: (0.05, 0.25), 8: (0.002, 0.02)}


@pytest.mark.parametrize("bits", ERRORS)
def test_matrices_of_the_blocks_are_rounded_and_nothing_else(bits):
    whole = make("qwen2", VOCABULARY)
    rounded = quantize(make("qwen2", VOCABULARY), bits, "cpu")
    matrix = rounded.model.layers[1].mlp.down_proj
    assert matrix.weight.dtype == {4: torch.uint8, 8: torch.int8}[bits]
    assert matrix.weight.numel() * 8 == bits * 32 * 48
    assert rounded.lm_head.weight.dtype == rounded.model.layers[1].input_layernorm.weight.dtype
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.model.layers[1].mlp.down_proj(x)
        error = (matrix(x) - expected).norm() / expected.norm()
    least, most = ERRORS[bits]
    assert least < error < most


@pytest.mark.parametrize("bits", ERRORS)
def test_adapters_learn_on_a_rounded_base(bits):
    base = quantize(make("qwen2", VOCABULARY), bits, "cpu")
    before = base(IDS).logits
    view = adapted(truncated(backbone_of(base), 2), 4, 8, 0, "base")
    adapters = adapter_state(view)
    ups = {name: p for name, p in adapters.items() if "lora_B" in name}
    assert len(ups) == 14
    view(IDS).last_hidden_state.square().mean().backward()
    with torch.no_grad():
        for parameter in ups.values():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
            parameter.sub_(parameter.grad)
    # The base, which is the target, has not moved.
    torch.testing.assert_close(base(IDS).logits, before, rtol=0, atol=0)


def test_other_matrices_are_refused():
    with pytest.raises(ConfigError, match="Conv1D"):
        quantize(make("gpt2", VOCABULARY), 8, "cpu")


def test_a_recipe_says_how_many_bits():
    assert LoraConfig(base_bits=4).base_bits == 4
    with pytest.raises(ValueError, match="base_bits"):
        LoraConfig.model_validate({"base_bits": 3})
    assert bitsandbytes.__version__
