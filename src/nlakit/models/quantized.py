"""Frozen bases of 4 or 8 bits (bitsandbytes, on CUDA or a CPU): the matrices of the blocks rounded.

4 bits are NF4 with doubly quantised constants (QLoRA); 8 bits are LLM.int8, which rounds a matrix's
inputs too. Norms, biases, embedding, head and adapters keep their precision. A merged model is made
from the files of the base, which are not rounded (`models.lora`).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from nlakit.errors import ConfigError, MissingExtraError
from nlakit.models.families import backbone_of, blocks_of

Bits = Literal[4, 8]


def quantize(model: Any, bits: Bits, device: str) -> Any:
    """Round a frozen model in place and bring it to a device; returns it.

    A matrix at a time goes to the device, so that it never holds the unrounded model.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ConfigError: the family's blocks are of another kind of matrices.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quantized") from error
    # It would say at every product that inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model.requires_grad_(False)
    backbone = backbone_of(model)
    for block in blocks_of(backbone):
        _round_matrices(bitsandbytes.nn, block, bits, device)
    for part in (model, backbone):
        # PEFT chooses its adapters by these words.
        part.is_loaded_in_4bit, part.is_loaded_in_8bit = bits == 4, bits == 8
    # Theirs start in training, where they compute otherwise.
    return model.to(device).eval()


def _round_matrices(bnb: Any, block: nn.Module, bits: Bits, device: str) -> None:
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                raise ConfigError(
                    f"A base of {bits} bits was asked for; this family's {name} is a Conv1D, which "
                    "bitsandbytes does not round. Leave lora.base_bits out."
                )
            if isinstance(child, nn.Linear):
                setattr(parent, name, _rounded(bnb, child, bits).to(device))


def _rounded(bnb: Any, linear: nn.Linear, bits: Bits) -> nn.Module:
    sizes: Any = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = linear.weight.data
    if bits == 4:
        made = bnb.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        made.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        made = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        made.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made
