"""Frozen bases of 4 or 8 bits (bitsandbytes, on CUDA or a CPU): quantized matrices in the blocks.

4 bits are NF4 with doubly quantized constants (QLoRA); 8 bits are LLM.int8, which quantizes a
matrix's inputs too. Norms, biases, embedding, head and adapters keep their precision. A merged
model is made from the files of the base, which are not quantized (`models.lora`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from nlakit.errors import ConfigError, MissingExtraError
from nlakit.models.families import backbone_of, blocks_of

Bits = Literal[4, 8]

MIN_SIDE = 2
"""bitsandbytes 0.50.2 multiplies wrongly where a matrix has one column, and fails on some of one
row; such a matrix keeps its precision."""


def quantize(model: Any, bits: Bits, device: str) -> Any:
    """Quantize a frozen model in place and bring it to a device; returns it.

    A matrix at a time goes to the device, so that it never holds the unquantized model.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ConfigError: the family's blocks are of another kind of matrices.
    """
    try:
        with _without_kernel_downloads():
            import bitsandbytes
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quantized") from error
    # It would say at every product that inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model.requires_grad_(False)
    backbone = backbone_of(model)
    for block in blocks_of(backbone):
        _quantize_matrices(bitsandbytes.nn, block, bits, device)
    for part in (model, backbone):
        # PEFT chooses its adapters by these words.
        part.is_loaded_in_4bit, part.is_loaded_in_8bit = bits == 4, bits == 8
    # Theirs start in training, where they compute otherwise.
    return model.to(device).eval()


@contextmanager
def _without_kernel_downloads() -> Iterator[None]:
    """While it is open, `kernels` cannot be imported.

    On a CPU with AVX-512-BF16 bitsandbytes uses that package, when itself imported, to download
    native code from the Hugging Face hub for a packed layout that is never used here.
    """
    installed = sys.modules.get("kernels")
    bitsandbytes_log = logging.getLogger("bitsandbytes")
    level = bitsandbytes_log.level
    sys.modules["kernels"] = None  # pyright: ignore[reportArgumentType]
    bitsandbytes_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        bitsandbytes_log.setLevel(level)
        del sys.modules["kernels"]
        if installed is not None:
            sys.modules["kernels"] = installed


def _quantize_matrices(bnb: Any, block: nn.Module, bits: Bits, device: str) -> None:
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                raise ConfigError(
                    f"A base of {bits} bits was asked for; this family's {name} is a Conv1D, which "
                    "bitsandbytes does not quantize. Leave lora.base_bits out."
                )
            if isinstance(child, nn.Linear) and min(child.weight.shape) >= MIN_SIDE:
                setattr(parent, name, _quantized(bnb, child, bits).to(device))


def _quantized(bnb: Any, linear: nn.Linear, bits: Bits) -> nn.Module:
    sizes: Any = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = linear.weight.data
    if bits == 4:
        made = bnb.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        made.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4")
        # On a CPU with AVX-512-BF16, bitsandbytes repacks the weight in the first forward without
        # gradients. That fails where a row is not whole blocks of 64 or the rows not a multiple of
        # 32, and a packed matrix lets no gradient through to the adapters that share it.
        made.support_avx512bf16_for_cpu = False
    else:
        made = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        made.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made
