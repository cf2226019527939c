"""Matryoshka: BatchTopK whose first latents must also do alone, for several prefixes (Bussmann et
al. 2025, 2503.17547). The errors of the prefixes are summed without weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nlakit.core.saes.losses import prefix_error

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


class MatryoshkaSettings(CommonSettings):
    """BatchTopK with prefixes."""

    architecture: Literal["matryoshka"] = "matryoshka"
    objective: Literal["local"] = "local"
    groups: tuple[float, ...] = Field(default=(1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2), min_length=2)
    """Shares of the latents; the prefixes are their running sums."""


class Matryoshka(Architecture):
    """See the module."""

    saved_as = "jumprelu"

    def __init__(self, settings: MatryoshkaSettings) -> None:
        self.settings = settings
        self.prefixes = prefix_sizes(settings.d_sae, settings.groups)
        self.threshold = RunningThreshold()

    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        return {"b_enc": torch.zeros(self.settings.d_sae)}

    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        return batch_code(weights, x_ND, self.settings)

    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        affine = affine_of(weights)
        return {ERROR: prefix_error(batch.now_ND, code.latents_NM, affine, self.prefixes)}

    def observe(self, code: Code, step: int) -> None:
        self.threshold.observe(code.latents_NM, step)

    def memory(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold.value}

    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        return with_one_threshold(weights, self.threshold)


def prefix_sizes(d_sae: int, groups: Sequence[float]) -> list[int]:
    """Running sums of shares of `d_sae`; the last is all of them."""
    ends = [round(d_sae * share / sum(groups)) for share in accumulate(groups)]
    return sorted({*(end for end in ends[:-1] if end > 0), d_sae})
