"""How much of each activation its explanation kept, row by row and over all rows.

The score over all rows is `core.fidelity.fve`; the number of documents behind either is the
number of distinct documents among the rows that the caller passes.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from nlakit.core.fidelity import FveResult, fve, squared_error
from nlakit.core.scale import to_norm

__all__ = ["FveResult", "RowErrors", "fve", "row_errors", "row_fidelity"]


class RowErrors(NamedTuple):
    """Squared error per component of each row: of its reconstruction, and of the mean."""

    mse_N: Float[Tensor, " N"]
    variance_N: Float[Tensor, " N"]


def row_errors(
    h_ND: Float[Tensor, "N D"],
    h_hat_ND: Float[Tensor, "N D"],
    mean_D: Float[Tensor, " D"],
    scale: float | None,
) -> RowErrors:
    """Both terms of FVE for each row: `fve == 1 - mse_N.sum() / variance_N.sum()`.

    Args:
        mean_D: plain mean of the training vectors brought to norm `scale`.
    """
    unit_ND = to_norm(h_ND.double(), scale)
    mse_N = squared_error(unit_ND, to_norm(h_hat_ND.double(), scale))
    return RowErrors(mse_N, squared_error(unit_ND, mean_D.double()))


def row_fidelity(errors: RowErrors) -> Float[Tensor, " N"]:
    """`1 - mse / variance` per row, against the variance of all rows: 1 perfect, 0 the mean's.

    Dividing by the mean variance, not by the row's own, makes the rows' average equal to FVE.
    """
    return 1 - errors.mse_N / errors.variance_N.mean()
