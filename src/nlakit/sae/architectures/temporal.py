"""Temporal (T-SAE, Bhalla et al. 2511.05541): the first latents must do alone, and change little
from one token to the next.

The paper and its code differ; these are the paper's choices, and where it is silent ours:
  - similarity is the cosine, the two cross-entropies are summed, temperature 1 (paper's equation);
  - the positive is the token before, other rows of the batch are negatives, those of the same
    document among them;
  - L_H + L_L, both unweighted; 20 % of the latents are high-level; BatchTopK over all of them,
    for each of the two tokens by itself;
  - the contrastive term is multiplied by D, the mean squared norm of the input, so that `contrast`
    (the paper's α) weighs it against a fraction of that norm for every model; the paper does not
    say at what scale its α of 1 is.
`contrast = 0` is the control: the same class, pairs and prefixes without the contrastive term.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nlakit.core.saes.losses import contrastive, prefix_error

from .base import (
    ERROR,
    Architecture,
    Batch,
    Code,
    CommonSettings,
    RunningThreshold,
    Weights,
    affine_of,
)
from .batchtopk import batch_code, with_one_threshold


class TemporalSettings(CommonSettings):
    """BatchTopK with a high-level prefix and a contrastive loss on it."""

    architecture: Literal["temporal"] = "temporal"
    objective: Literal["local"] = "local"
    high_share: float = Field(default=0.2, gt=0, lt=1)
    """Of the latents, those that are high-level; they are the first ones."""
    contrast: float = Field(default=1.0, ge=0)
    """Weight of the contrastive term, the paper's α."""

    @property
    def num_high(self) -> int:
        """How many latents are high-level."""
        return max(1, round(self.d_sae * self.high_share))


class Temporal(Architecture):
    """See the module."""

    saved_as = "jumprelu"
    needs_pairs = True

    def __init__(self, settings: TemporalSettings) -> None:
        self.settings = settings
        self.threshold = RunningThreshold()

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {"b_enc": torch.zeros(self.settings.d_sae)}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        return batch_code(weights, x_ND, self.settings)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        assert batch.before_ND is not None, "the trainer gives pairs to whoever needs them"
        high = self.settings.num_high
        prefixes = [high, self.settings.d_sae]
        error = prefix_error(batch.now_ND, code.latents_NM, affine_of(weights), prefixes)
        if not self.settings.contrast:
            return {ERROR: error}
        before_NM = self.code(weights, batch.before_ND).latents_NM
        likeness = contrastive(code.latents_NM[:, :high], before_NM[:, :high])
        return {
            ERROR: error,
            "contrast": likeness * self.settings.contrast * weights["b_dec"].numel(),
        }

    def observe(self, code: Code, step: int) -> None:
        self.threshold.observe(code.latents_NM, step)

    def memory(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold.value}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return with_one_threshold(weights, self.threshold)
