"""JumpReLU: a trained threshold per latent, and a penalty on how many are active (Rajamanoharan et
al. 2024, 2407.14435), whose coefficient is moved until as many are as were asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

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
    SparsityControl,
    Weights,
    affine_of,
    detached,
)


class JumpReluSettings(CommonSettings):
    """The penalty on L0 is moved until `k` latents are active on average."""

    architecture: Literal["jumprelu"] = "jumprelu"
    bandwidth: float = Field(default=0.5, gt=0)
    """Width of the rectangle around a threshold within which it learns."""
    penalty: float = Field(default=0.1, gt=0)
    """Where its coefficient starts."""


class JumpRelu(Architecture):
    """See the module."""

    saved_as = "jumprelu"
    # Adam moves a weight by about the rate at each step, and thresholds have the furthest to go.
    rates: ClassVar = {"threshold": 10.0}

    def __init__(self, settings: JumpReluSettings) -> None:
        self.settings = settings
        self.control = SparsityControl(settings.k, settings.penalty)

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        # Where twice as many are active: a threshold that starts too high gets no gradient, as
        # no pre-activation comes near it, and its latent never lives.
        width = self.settings.d_sae
        active = max(1, round(2 * len(pre_NM) * self.settings.k))
        start = pre_NM.flatten().topk(min(active, pre_NM.numel())).values[-1].clamp_min(1e-3)
        return {"b_enc": torch.zeros(width), "threshold": start.expand(width).clone()}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        subtract, bandwidth = self.settings.subtract_b_dec, self.settings.bandwidth
        pre_NM = pre_activations(x_ND, affine_of(weights), subtract_b_dec=subtract)
        return Code(trained_jump_relu(pre_NM, weights["threshold"], bandwidth), pre_NM)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        l0_N = trained_l0(code.pre_NM, weights["threshold"], self.settings.bandwidth)
        x_hat_ND = decode(code.latents_NM, affine_of(weights))
        return {
            ERROR: squared_error(batch.now_ND, x_hat_ND),
            "penalty": l0_N.mean() * self.control.coefficient.item(),
        }

    def observe(self, code: Code, step: int) -> None:
        self.control.observe((code.latents_NM > 0).sum(-1).double().mean().item())

    def memory(self) -> dict[str, Tensor]:
        return {"coefficient": self.control.coefficient}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return detached(weights)
