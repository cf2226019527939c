"""Gated: which latents are active and how strongly are decided apart, so that the L1 penalty on the
gate does not shrink the strengths (Rajamanoharan et al. 2024, 2404.16014)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nlakit.core.saes import sparsity
from nlakit.core.saes.affine import Affine, decode, projected
from nlakit.core.saes.losses import gate_error, squared_error, weighted_l1

from .base import (
    ERROR,
    Architecture,
    Batch,
    Code,
    CommonSettings,
    SparsityControl,
    Weights,
    detached,
)


class GatedSettings(CommonSettings):
    """The penalty on the gate is moved until `k` latents are active on average."""

    architecture: Literal["gated"] = "gated"
    objective: Literal["local"] = "local"
    penalty: float = Field(default=1.0, gt=0)
    """Where its coefficient starts."""


class Gated(Architecture):
    """See the module."""

    saved_as = "gated"

    def __init__(self, settings: GatedSettings) -> None:
        self.settings = settings
        self.control = SparsityControl(settings.k, settings.penalty)

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {name: torch.zeros(self.settings.d_sae) for name in ("b_gate", "r_mag", "b_mag")}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        subtract = self.settings.subtract_b_dec
        projected_NM = projected(x_ND, _affine(weights), subtract_b_dec=subtract)
        biases = (weights["b_gate"], weights["r_mag"], weights["b_mag"])
        return Code(sparsity.gated(projected_NM, *biases), projected_NM + weights["b_gate"])

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        affine = _affine(weights)
        penalty = weighted_l1(code.pre_NM.relu(), weights["W_dec"])
        return {
            ERROR: squared_error(batch.now_ND, decode(code.latents_NM, affine)),
            "gate": gate_error(batch.now_ND, code.pre_NM, affine),
            "penalty": penalty * self.control.coefficient.item(),
        }

    def observe(self, code: Code, step: int) -> None:
        self.control.observe((code.latents_NM > 0).sum(-1).double().mean().item())

    def memory(self) -> dict[str, Tensor]:
        return {"coefficient": self.control.coefficient}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return detached(weights)


def _affine(weights: Weights) -> Affine:
    return Affine(weights["W_enc"], weights["b_gate"], weights["W_dec"], weights["b_dec"])
