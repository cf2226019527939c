"""In which numbers a forward multiplies, where the hardware has a choice."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from .sharding import SHARDS

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The autocast of a training forward; "auto" takes bfloat16 where the hardware multiplies it
    fast."""
    if precision == "float32" or (precision == "auto" and not _fast_bfloat16(device)):
        return nullcontext()
    # Its cache would keep a whole copy of weights that are gathered to be given up again.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=not SHARDS.active)


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported()) or bool(
            torch.cpu._is_amx_tile_supported()
        )
    return device.type == "cuda"
