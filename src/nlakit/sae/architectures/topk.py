"""TopK: the k largest of each row (Gao et al. 2024, 2406.04093)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nlakit.core.saes.affine import decode, pre_activations
from nlakit.core.saes.losses import squared_error
from nlakit.core.saes.sparsity import top_k

from .base import ERROR, Architecture, Batch, Code, CommonSettings, Weights, affine_of, detached


class TopKSettings(CommonSettings):
    """Exactly `k` latents a row (fewer where pre-activations are below 0)."""

    architecture: Literal["topk"] = "topk"


class TopK(Architecture):
    """See the module."""

    saved_as = "topk"

    def __init__(self, settings: TopKSettings) -> None:
        self.settings = settings

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {"b_enc": torch.zeros(self.settings.d_sae)}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        subtract = self.settings.subtract_b_dec
        pre_NM = pre_activations(x_ND, affine_of(weights), subtract_b_dec=subtract)
        return Code(top_k(pre_NM, self.settings.k), pre_NM)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        x_hat_ND = decode(code.latents_NM, affine_of(weights))
        return {ERROR: squared_error(batch.now_ND, x_hat_ND)}

    def observe(self, code: Code, step: int) -> None:
        """There is nothing to learn."""

    def memory(self) -> dict[str, Tensor]:
        return {}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return detached(weights)
