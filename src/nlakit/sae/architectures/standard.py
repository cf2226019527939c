"""ReLU with an L1 penalty, weighted by decoder norms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nlakit.core.saes.affine import decode, pre_activations
from nlakit.core.saes.losses import squared_error, weighted_l1

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


class StandardSettings(CommonSettings):
    """ReLU; the penalty is moved until `k` latents are active on average."""

    architecture: Literal["standard"] = "standard"
    penalty: float = 1.0
    """Where its coefficient starts."""


class Standard(Architecture):
    """See the module."""

    saved_as = "standard"

    def __init__(self, settings: StandardSettings) -> None:
        self.settings = settings
        self.control = SparsityControl(settings.k, settings.penalty)

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {"b_enc": torch.zeros(self.settings.d_sae)}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        subtract = self.settings.subtract_b_dec
        pre_NM = pre_activations(x_ND, affine_of(weights), subtract_b_dec=subtract)
        return Code(pre_NM.relu(), pre_NM)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        x_hat_ND = decode(code.latents_NM, affine_of(weights))
        penalty = weighted_l1(code.latents_NM, weights["W_dec"])
        return {
            ERROR: squared_error(batch.now_ND, x_hat_ND),
            "penalty": penalty * self.control.coefficient.item(),
        }

    def observe(self, code: Code, step: int) -> None:
        self.control.observe((code.latents_NM > 0).sum(-1).double().mean().item())

    def memory(self) -> dict[str, Tensor]:
        return {"coefficient": self.control.coefficient}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return detached(weights)
