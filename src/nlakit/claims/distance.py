"""How far an activation lies from those of training: Mahalanobis distance along principal axes.

The covariance of all D directions would be as large as a layer. A few principal axes hold most of
the variance; along the others one mean variance stands for all (probabilistic PCA, Tipping and
Bishop 1999). Only directions count: every activation is brought to norm √d first.
"""

from __future__ import annotations

import base64
from typing import Annotated, NamedTuple

import numpy as np
import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.scale import to_norm

NUM_AXES = 32
LEAST_VARIANCE = 1e-6


def _halves(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ValueError("expected numbers in base64") from error
    if size == 0 or size % 2:
        raise ValueError(f"expected numbers of two bytes, found {size} bytes")
    return text


Halves = Annotated[str, pydantic.AfterValidator(_halves)]
"""Little-endian float16 numbers in base64: as text they would take five times the room."""


class Distance(NamedTuple):
    """Squared distances in logarithms, each over its expectation inside: 0 is usual there.

    Attributes:
        along: along the axes, in units of their variance.
        beside: of what lies beside all axes.
    """

    along: float
    beside: float


class ActivationSpread(FrozenModel):
    """Mean and principal axes of N activations."""

    mean: Halves
    axes: Halves
    """K unit vectors, one after the other."""
    variances: tuple[pydantic.PositiveFloat, ...]
    """Along each of the K axes."""
    rest: pydantic.PositiveFloat
    """Mean variance along the other directions."""
    rows: int

    @pydantic.model_validator(mode="after")
    def _fits(self) -> ActivationSpread:
        axes, mean = len(_numbers(self.axes)), len(_numbers(self.mean))
        if axes != mean * len(self.variances) or mean <= len(self.variances):
            raise ValueError(
                f"{len(self.variances)} axes of {mean} numbers are {mean * len(self.variances)}, "
                f"found {axes}, and there must be fewer axes than directions"
            )
        return self

    @classmethod
    def fit(cls, vectors_ND: Float[Tensor, "N D"], num_axes: int = NUM_AXES) -> ActivationSpread:
        """The spread of N activations along at most half of their directions."""
        own_ND = _directions(vectors_ND)
        mean_D = own_ND.mean(0)
        _, singular, axes_DD = torch.linalg.svd(own_ND - mean_D, full_matrices=False)
        variances = (singular.square() / max(1, len(own_ND) - 1)).clamp_min(LEAST_VARIANCE)
        kept = min(num_axes, own_ND.shape[1] // 2, len(variances))
        others = own_ND.shape[1] - kept
        return cls(
            mean=_text(mean_D),
            axes=_text(axes_DD[:kept]),
            variances=tuple(variances[:kept].tolist()),
            rest=max(LEAST_VARIANCE, variances[kept:].sum().item() / others),
            rows=len(own_ND),
        )

    def distances(self, vectors_ND: Float[Tensor, "N D"]) -> list[Distance]:
        """Of N activations."""
        mean_D = _numbers(self.mean)
        axes_KD = _numbers(self.axes).reshape(len(self.variances), -1)
        off_ND = _directions(vectors_ND) - mean_D
        along_NK = off_ND @ axes_KD.T
        beside_N = off_ND.square().sum(-1) - along_NK.square().sum(-1)
        num_axes, num_others = axes_KD.shape[0], axes_KD.shape[1] - axes_KD.shape[0]
        scaled_N = (along_NK.square() / torch.tensor(self.variances)).sum(-1) / num_axes
        others_N = beside_N.clamp_min(LEAST_VARIANCE) / (num_others * self.rest)
        logs = (scaled_N.clamp_min(LEAST_VARIANCE).log(), others_N.log())
        return [Distance(*row) for row in torch.stack(logs, dim=-1).tolist()]


def _directions(vectors_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    own_ND = vectors_ND.float().cpu()
    return to_norm(own_ND, own_ND.shape[-1] ** 0.5)


def _text(numbers: Tensor) -> str:
    return base64.b64encode(numbers.numpy().astype("<f2").tobytes()).decode("ascii")


def _numbers(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32))
