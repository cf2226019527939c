"""BatchTopK: k latents a row on average over the batch (Bussmann et al. 2024, 2412.06410). A single
row has no batch, so it is saved as JumpReLU with one threshold for all latents."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nlakit.core.saes.affine import decode, pre_activations
from nlakit.core.saes.losses import squared_error
from nlakit.core.saes.sparsity import batch_top_k

from .base import (
    ERROR,
    Architecture,
    Batch,
    Code,
    CommonSettings,
    RunningThreshold,
    Weights,
    affine_of,
    detached,
)


class BatchTopKSettings(CommonSettings):
    """`k` latents a row on average."""

    architecture: Literal["batchtopk"] = "batchtopk"


class BatchTopK(Architecture):
    """See the module."""

    saved_as = "jumprelu"

    def __init__(self, settings: BatchTopKSettings) -> None:
        self.settings = settings
        self.threshold = RunningThreshold()

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {"b_enc": torch.zeros(self.settings.d_sae)}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        return batch_code(weights, x_ND, self.settings)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        x_hat_ND = decode(code.latents_NM, affine_of(weights))
        return {ERROR: squared_error(batch.now_ND, x_hat_ND)}

    def observe(self, code: Code, step: int) -> None:
        self.threshold.observe(code.latents_NM, step)

    def memory(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold.value}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return with_one_threshold(weights, self.threshold)


def batch_code(weights: Weights, x_ND: Tensor, settings: CommonSettings) -> Code:
    """Encode rows that share one budget of active latents."""
    subtract = settings.subtract_b_dec
    pre_NM = pre_activations(x_ND, affine_of(weights), subtract_b_dec=subtract)
    return Code(batch_top_k(pre_NM, settings.k), pre_NM)


def with_one_threshold(weights: Weights, threshold: RunningThreshold) -> dict[str, Tensor]:
    """The tensors of a JumpReLU autoencoder whose latents share a threshold."""
    kept = detached(weights)
    return {**kept, "threshold": torch.full_like(kept["b_enc"], threshold.value.item())}
