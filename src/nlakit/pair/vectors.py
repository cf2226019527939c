"""Activations as people have them: tensors of any device, arrays, lists, caches of one text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nlakit.core.inject import check_vectors
from nlakit.errors import InputError
from nlakit.pair.score import in_range

Vectors = (
    Tensor
    | np.ndarray
    | Sequence[float]
    | Sequence[Sequence[float]]
    | Sequence[Tensor]
    | Sequence[np.ndarray]
)


def as_rows(vectors: Vectors, d_model: int) -> Tensor:
    """Vectors as N x D float32, refused with `InputError` where no model could read them."""
    rows = _stacked(vectors)
    if rows is None:
        try:
            rows = torch.from_numpy(np.array(vectors, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InputError(f"Vectors must be rows of {d_model} numbers: {error}") from error
    rows = rows[None] if rows.ndim == 1 else rows
    # A cache of one text, as other libraries give it, is a batch of one.
    rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or len(rows) == 0:
        found = tuple(rows.shape)
        raise InputError(f"Vectors must have the shape (N, {d_model}), found {found}.")
    check_vectors(rows, d_model)
    return in_range(rows)


def _stacked(vectors: Vectors) -> Tensor | None:
    """Tensors, of whatever device, as one on the CPU; None for anything else."""
    if isinstance(vectors, Tensor):
        return vectors.detach().cpu().float()
    if isinstance(vectors, list | tuple) and vectors:
        tensors = [each.detach().cpu().float() for each in vectors if isinstance(each, Tensor)]
        same = len({each.shape for each in tensors}) == 1
        return torch.stack(tensors) if len(tensors) == len(vectors) and same else None
    return None
