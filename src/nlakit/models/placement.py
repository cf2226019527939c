"""Where models run and in which precision: one answer for every way of loading them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from nlakit.errors import InputError
from nlakit.models.io import stored_dtype

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Placement(NamedTuple):
    """A device, and a precision.

    Attributes:
        dtype: None: each checkpoint's own.
    """

    device: torch.device
    dtype: torch.dtype | None

    def dtype_of(self, directory: str | Path) -> torch.dtype:
        """The precision of a model directory's weights in memory. Raises `CheckpointError`."""
        return self.dtype or stored_dtype(directory)


ON_CPU = Placement(torch.device("cpu"), torch.float32)


def placement(device: str | torch.device = AUTO, dtype: str | torch.dtype = AUTO) -> Placement:
    """What `device` and `dtype` ask for.

    Args:
        device: "auto" is CUDA, else MPS, else the CPU: the first that this machine has.
        dtype: "auto" is the checkpoint's own on an accelerator, and float32 on a CPU.

    Raises:
        InputError: a device that this machine does not have, or a name that is neither's.
    """
    found = find_device(device)
    return Placement(found, precision(found, dtype))


def find_device(device: str | torch.device = AUTO) -> torch.device:
    """A device of this machine by its name. Raises `InputError`."""
    if device == AUTO:
        return torch.device(_first_kind())
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(
            f"The device {str(device)!r} is not known. Give auto, cpu, cuda, cuda:1 or mps."
        ) from error
    there = _count(found.type)
    if found.index is not None and 0 < there <= found.index:
        raise InputError(
            f"The device {found} was asked for; this machine has {there} of that kind, from "
            f"{found.type}:0 on."
        )
    if not there:
        raise InputError(
            f"The device {found} was asked for; PyTorch {torch.__version__} finds none here. "
            "Give cpu, or install a PyTorch build for your accelerator."
        )
    return found


def precision(device: torch.device, dtype: str | torch.dtype = AUTO) -> torch.dtype | None:
    """The precision of weights on a device; None: as they are stored. Raises `InputError`."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == AUTO:
        return torch.float32 if device.type == "cpu" else None
    if dtype not in DTYPES:
        raise InputError(f"The dtype {dtype!r} is not known. Give auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _first_kind() -> str:
    return next(kind for kind in ("cuda", "mps", "cpu") if _count(kind))


def _count(kind: str) -> int:
    """How many devices of a kind this machine has."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int(kind == "cpu")
