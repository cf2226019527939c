"""How much of an activation a reconstruction keeps.

`FVE = 1 - E‖h - ĥ‖² / E‖h - h̄‖²`, all vectors first brought to the same norm and `h̄` the plain mean
of such vectors over the *training* split. Another denominator in use takes the mean brought to that
norm as well; it is larger, so it inflates the score, and is reported under its own name only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from nlakit.core.scale import to_norm
from nlakit.errors import InputError


@dataclass(frozen=True)
class FveResult:
    """Fraction of variance explained, over `num_rows` rows.

    Attributes:
        fve: the canonical score: 1 perfect, 0 no better than the mean, negative worse.
        fve_renormalized_mean: the same against the re-normalised mean.
        mse: mean squared error per component of the normalised vectors.
        variance: canonical denominator, per component.
        num_rows: rows that were averaged.
    """

    fve: float
    fve_renormalized_mean: float
    mse: float
    variance: float
    num_rows: int


def reconstruction_mse(
    h_ND: Float[Tensor, "N D"], h_hat_ND: Float[Tensor, "N D"], scale: float | int | None
) -> Float[Tensor, " N"]:
    """Squared error per component, both brought to norm `scale`; `2 (1 - cos)` at norm √D."""
    return squared_error(to_norm(h_ND.float(), scale), to_norm(h_hat_ND.float(), scale))


def squared_error(a_ND: Float[Tensor, "N D"], b_ND: Float[Tensor, "*M D"]) -> Float[Tensor, " N"]:
    """Mean over components of the squared difference, as the vectors are."""
    return (a_ND - b_ND).square().mean(dim=-1)


def fve(
    h_ND: Float[Tensor, "N D"],
    h_hat_ND: Float[Tensor, "N D"],
    mean_D: Float[Tensor, " D"],
    scale: float | int | None,
) -> FveResult:
    """Fraction of variance explained by `h_hat_ND` (see the module's docstring).

    Args:
        mean_D: plain mean of the training split's vectors after `to_norm(…, scale)`.

    Raises:
        InputError: no rows, or rows that do not differ from the mean at all.
    """
    if len(h_ND) == 0:
        raise InputError("FVE needs at least one row, found none.")
    # Double, since a mean over many rows of nearly equal numbers is compared with another.
    unit_ND = to_norm(h_ND.double(), scale)
    mse = squared_error(unit_ND, to_norm(h_hat_ND.double(), scale)).mean().item()
    variance = squared_error(unit_ND, mean_D.double()).mean().item()
    renormalized = squared_error(unit_ND, to_norm(mean_D.double(), scale)).mean().item()
    if variance == 0 or renormalized == 0:
        raise InputError(f"FVE is undefined: all {len(h_ND)} rows equal the mean (variance 0).")
    return FveResult(1 - mse / variance, 1 - mse / renormalized, mse, variance, len(h_ND))


class Baseline(NamedTuple):
    """What knowing nothing of a vector but where it comes from reaches.

    Attributes:
        mean_D: plain mean of training vectors, each first brought to norm √D.
        variance: mean of `‖h - mean‖² / D` over them.
    """

    mean_D: Float[Tensor, " D"]
    variance: float


def mean_of(vectors_ND: Float[Tensor, "N D"]) -> Baseline:
    """The baseline that N vectors of a training split give. Raises `InputError` for none."""
    if len(vectors_ND) == 0:
        raise InputError("A mean needs at least one vector, found none.")
    unit_ND = to_norm(vectors_ND.double(), math.sqrt(vectors_ND.shape[1]))
    mean_D = unit_ND.mean(dim=0)
    return Baseline(mean_D.float(), squared_error(unit_ND, mean_D).mean().item())


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
