"""Norms that vectors are brought to before injection and before comparison."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.errors import InputError


def resolve_scale(scale: float | int | str | None, d_model: int) -> float | None:
    """The norm that a scale of `nla_meta.yaml` stands for; None leaves vectors as they are.

    Raises:
        InputError: another word than `sqrt_d_model`, or a number that is not positive and finite.
    """
    if scale is None:
        return None
    if scale == "sqrt_d_model":
        return math.sqrt(d_model)
    if isinstance(scale, str) or not math.isfinite(scale) or scale <= 0:
        raise InputError(
            f"A scale must be a positive number, 'sqrt_d_model' or null, found {scale!r}."
        )
    return float(scale)


def to_norm(x_ND: Float[Tensor, "*N D"], norm: float | int | None) -> Float[Tensor, "*N D"]:
    """Rows brought to the length `norm` (None: unchanged). A zero row stays zero."""
    if norm is None:
        return x_ND
    length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    # A zero row is divided by one, so that neither the value nor the gradient becomes NaN.
    length_N1 = torch.where(length_N1 == 0, torch.ones_like(length_N1), length_N1)
    return x_ND / length_N1 * norm
