"""Lenses: what an activation would make the model say if nothing came after it but this.

The logit lens takes the residual stream as the last block's output. The Jacobian lens first applies
J, the mean derivative of the last block's output by this one's: what the blocks between do to it on
average, to first order.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def transported(
    residual_ND: Float[Tensor, "*N D"], jacobian_DD: Float[Tensor, "D D"]
) -> Float[Tensor, "*N D"]:
    """J h: row i of J is the derivative of the last residual's component i."""
    return residual_ND @ jacobian_DD.T


def jacobian_rows(
    gradient_BTD: Float[Tensor, "B T D"], sources_T: Bool[Tensor, " T"]
) -> Float[Tensor, "B D"]:
    """Rows of J from one text: gradients of B components, each summed over all target positions,
    by the residual at every position; the mean over source positions."""
    return gradient_BTD[:, sources_T].mean(1)


def relative_change(before_DD: Float[Tensor, "D D"], after_DD: Float[Tensor, "D D"]) -> float:
    """‖after - before‖ / ‖after‖: how much one more text has moved a running mean."""
    return ((after_DD - before_DD).norm() / after_DD.norm().clamp_min(1e-12)).item()
