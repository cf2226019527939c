"""JumpReLU: a trained threshold per latent, and a penalty on how many are active (Rajamanoharan et
al. 2024, 2407.14435), squared around the number that is wanted."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nlakit.core.saes.affine import decode, pre_activations
from nlakit.core.saes.losses import squared_error
from nlakit.core.saes.sparsity import trained_jump_relu, trained_l0

from .base import (
    ERROR,
    Architecture,
    Batch,
    Code,
    CommonSettings,
    Weights,
    affine_of,
    detached,
)


class JumpReluSettings(CommonSettings):
    """Thresholds start where `k` latents are active; the penalty is (L0 / k - 1)²."""

    architecture: Literal["jumprelu"] = "jumprelu"
    bandwidth: float = Field(default=0.5, gt=0)
    """Width of the rectangle around a threshold within which it learns."""
    penalty: float = Field(default=1.0, gt=0)
    """Weight of the penalty, against the mean squared norm of the input."""


class JumpRelu(Architecture):
    """See the module."""

    saved_as = "jumprelu"

    def __init__(self, settings: JumpReluSettings) -> None:
        self.settings = settings

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        # Adam moves a threshold by no more than the rate at each step: one that starts far from
        # where it is needed would still be on its way at the end.
        width = self.settings.d_sae
        active = max(1, round(len(pre_NM) * self.settings.k))
        start = pre_NM.flatten().topk(min(active, pre_NM.numel())).values[-1].clamp_min(1e-3)
        return {"b_enc": torch.zeros(width), "threshold": start.expand(width).clone()}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        subtract, bandwidth = self.settings.subtract_b_dec, self.settings.bandwidth
        pre_NM = pre_activations(x_ND, affine_of(weights), subtract_b_dec=subtract)
        return Code(trained_jump_relu(pre_NM, weights["threshold"], bandwidth), pre_NM)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        l0_N = trained_l0(code.pre_NM, weights["threshold"], self.settings.bandwidth)
        x_hat_ND = decode(code.latents_NM, affine_of(weights))
        penalty = (l0_N.mean() / self.settings.k - 1).square()
        return {
            ERROR: squared_error(batch.now_ND, x_hat_ND),
            "penalty": penalty * self.settings.penalty * batch.now_ND.shape[1],
        }

    def observe(self, code: Code, step: int) -> None:
        """There is nothing to learn."""

    def memory(self) -> dict[str, Tensor]:
        return {}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return detached(weights)
