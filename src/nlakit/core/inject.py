"""Putting activation vectors into a forward pass.

Every engine and every model calls these two functions, so the arithmetic exists once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlakit.core.scale import to_norm
from nlakit.errors import InputError


def replace_rows(
    embeddings_BTD: Float[Tensor, "B T D"],
    index_B: Int[Tensor, " B"],
    vectors_BD: Float[Tensor, "B D"],
) -> Float[Tensor, "B T D"]:
    """Embeddings with row `index_B[b]` of sequence b replaced; the input is left as it was."""
    rows_B = torch.arange(embeddings_BTD.shape[0], device=embeddings_BTD.device)
    return embeddings_BTD.index_put((rows_B, index_B), vectors_BD.to(embeddings_BTD))


def add_norm_matched(
    residual_BTD: Float[Tensor, "B T D"],
    index_B: Int[Tensor, " B"],
    vectors_BD: Float[Tensor, "B D"],
    coefficient: float | int = 1.0,
) -> Float[Tensor, "B T D"]:
    """Residual with `coefficient * ‖row‖ * v / ‖v‖` added at row `index_B[b]` of sequence b.

    A zero vector adds nothing. The input is left as it was.
    """
    rows_B = torch.arange(residual_BTD.shape[0], device=residual_BTD.device)
    row_BD = residual_BTD[rows_B, index_B].float()
    norm_B1 = torch.linalg.vector_norm(row_BD, dim=-1, keepdim=True)
    added_BD = row_BD + coefficient * norm_B1 * to_norm(vectors_BD.to(row_BD), 1.0)
    return residual_BTD.index_put((rows_B, index_B), added_BD.to(residual_BTD.dtype))


def check_vectors(vectors_ND: Float[Tensor, "N D"], d_model: int) -> None:
    """Refuse what no model can read.

    Raises:
        InputError: not two-dimensional, not of width `d_model`, or not finite.
    """
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != d_model:
        raise InputError(
            f"Vectors must have the shape (N, {d_model}), found {tuple(vectors_ND.shape)}. "
            "Were they taken from another model?"
        )
    bad_N = ~torch.isfinite(vectors_ND).all(dim=-1)
    if bool(bad_N.any()):
        row = int(bad_N.nonzero()[0])
        value = vectors_ND[row][~torch.isfinite(vectors_ND[row])][0].item()
        raise InputError(
            f"Vectors must be finite; row {row} contains {value} ({int(bad_N.sum())} bad rows of "
            f"{len(vectors_ND)}). Leave such rows out."
        )
