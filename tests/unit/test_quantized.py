"""Bases of 4 and 8 bits by bitsandbytes itself, which runs on a CPU as well."""

from __future__ import annotations

import copy
import subprocess
import sys

import bitsandbytes
import pytest
import torch
from support.families import make
from torch import nn

from nlakit.errors import ConfigError
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of, truncated
from nlakit.models.lora import adapter_state
from nlakit.models.quantized import _quantize_matrices, quantize
from nlakit.train.model_recipe import LoraConfig

VOCABULARY = 64
IDS = torch.arange(24).view(2, 12)
# Bounds of the relative error of a product: less is not quantized, more has a wrong scale.
ERRORS = {4: (0.05, 0.25), 8: (0.002, 0.02)}


@pytest.mark.parametrize("bits", ERRORS)
def test_matrices_of_the_blocks_are_quantized_and_nothing_else(bits):
    whole = make("qwen2", VOCABULARY)
    quantized = quantize(make("qwen2", VOCABULARY), bits, "cpu")
    matrix = quantized.model.layers[1].mlp.down_proj
    assert matrix.weight.dtype == {4: torch.uint8, 8: torch.int8}[bits]
    assert matrix.weight.numel() * 8 == bits * 32 * 48
    assert quantized.lm_head.weight.dtype == quantized.model.layers[1].input_layernorm.weight.dtype
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.model.layers[1].mlp.down_proj(x)
        error = (matrix(x) - expected).norm() / expected.norm()
    least, most = ERRORS[bits]
    assert least < error < most


@pytest.fixture(params=[True, False])
def packs(request, monkeypatch) -> None:
    """Whether bitsandbytes takes the CPU for one that has AVX-512-BF16, whatever it has."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: request.param)


# 63 and 64 columns: below and at bitsandbytes' block; 31 and 32 rows: at its packed row block.
@pytest.mark.parametrize("shape", [(31, 63), (32, 63), (31, 64), (32, 64), (48, 96), (1, 64)])
@pytest.mark.parametrize("bits", ERRORS)
def test_shapes_on_both_sides_of_a_block_run_with_and_without_gradients(bits, shape, packs):
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0])
    block = nn.ModuleList([copy.deepcopy(linear)])
    _quantize_matrices(bitsandbytes.nn, block, bits, "cpu")
    x = torch.randn(8, shape[1])
    with torch.no_grad():
        found = block.eval()[0](x)
        assert (found - linear(x)).norm() < 0.3 * linear(x).norm()
    # The target runs without gradients, then training runs the same matrix with them.
    x.requires_grad_()
    block[0](x).sum().backward()
    expected = linear.weight.sum(0).expand_as(x.grad)
    assert (x.grad - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)])
def test_matrices_that_bitsandbytes_gets_wrong_keep_their_precision(shape):
    block = nn.ModuleList([nn.Linear(*shape)])
    _quantize_matrices(bitsandbytes.nn, block, 8, "cpu")
    assert type(block[0]) is nn.Linear


def test_importing_bitsandbytes_downloads_no_kernel():
    program = (
        "import sys, types\n"
        "asked = []\n"
        "stub = types.ModuleType('kernels')\n"
        "stub.get_kernel = lambda *a, **k: asked.append(a)\n"
        "sys.modules['kernels'] = stub\n"
        "from nlakit.models.quantized import _without_kernel_downloads\n"
        "with _without_kernel_downloads():\n"
        "    import bitsandbytes\n"
        "assert sys.modules['kernels'] is stub and not asked, asked\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("bits", ERRORS)
def test_adapters_learn_on_a_quantized_base(bits):
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
