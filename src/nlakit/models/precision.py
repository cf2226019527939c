"""In which precision a model computes, where the hardware has a choice."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """What activations are in; "auto" takes bfloat16 where the hardware multiplies it fast."""
    device = torch.device(device)
    if precision == "float32" or (precision == "auto" and not has_fast_bfloat16(device)):
        return torch.float32
    return torch.bfloat16


def bring_to(model: nn.Module, precision: Precision) -> None:
    """Convert a model's weights in place, and those of every other view of them.

    Buffers stay: rotary frequencies in bfloat16 would put far tokens at other positions. So do
    quantized and sharded weights.
    """
    parameters = [each for each in model.parameters() if type(each) is nn.Parameter]
    if not parameters:
        return
    dtype = compute_dtype(precision, parameters[0].device)
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For forwards of float32 weights, such as a target's in training: its products in
    `compute_dtype`."""
    if compute_dtype(precision, device) == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 faster than float32: four times on a CPU with AVX-512 BF16."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported()) or bool(
            torch.cpu._is_amx_tile_supported()
        )
    return device.type == "cuda"
