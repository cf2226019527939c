"""Numbers that a precision cannot hold, said as what they are and what to do."""

from __future__ import annotations

import torch
from torch import Tensor

from nlakit.errors import InputError

HALF_ADVICE = (
    "float16 ends at 65504, and the residuals of some families (Gemma) and some injection scales "
    "are larger. Load it in bfloat16 or float32 (--dtype)."
)
OTHER_ADVICE = "Its weights may be broken, or made for something else."


def check_finite_in(values: Tensor, dtype: torch.dtype, what: str) -> None:
    """Refuse what a model of `dtype` computed where it is not finite.

    Raises:
        InputError: naming `what`, the dtype, and which one to use.
    """
    if not bool(torch.isfinite(values).all()):
        raise InputError(overflow_message(what, dtype))


def check_fits(values: Tensor, dtype: torch.dtype, what: str) -> None:
    """Refuse finite numbers that would be infinite in `dtype`.

    Raises:
        InputError: as `check_finite_in`.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest > torch.finfo(dtype).max:
        raise InputError(
            overflow_message(what, dtype, f"as large as {largest:.5g}, which overflows")
        )


def overflow_message(what: str, dtype: torch.dtype, found: str = "not finite") -> str:
    """That `what` are `found` in a dtype, and which dtype to use."""
    advice = HALF_ADVICE if dtype == torch.float16 else OTHER_ADVICE
    return f"{what} are {found} in {str(dtype).removeprefix('torch.')}. {advice}"
