"""What an architecture is while it is trained, and the parts that several of them share.

An architecture is one file: its settings and one final class, found by `architectures.made`. It
holds no weights; the trainer does, under SAELens's names. Inputs are activations at mean norm √D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.affine import Affine
from nlakit.core.saes.sparsity import smallest_active
from nlakit.sae.config import Inference

ERROR = "error"
"""The loss of the reconstruction: the one that end-to-end training replaces."""

Objective = Literal["local", "end_to_end", "end_to_end_downstream"]


class CommonSettings(FrozenModel):
    """What every architecture is told."""

    d_sae: int = Field(gt=1)
    k: int = Field(gt=0)
    """Active latents per row: of TopK exactly, of the others on average."""
    objective: Objective = "local"
    layer: int | None = Field(default=None, ge=0)
    """The block whose output is read; None: the recipe's."""
    steps: int = Field(ge=1)
    batch_size: int = Field(default=1024, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Of the steps, at the end, in which the rate falls to 0."""
    aux_weight: float = Field(default=1 / 32, ge=0)
    """Of the error with which dead latents rebuild what is left over (AuxK)."""
    dead_after: int = Field(default=200_000, gt=0)
    """Rows after which a silent latent counts as dead."""
    subtract_b_dec: bool = True
    checkpoint_every: int = Field(default=500, ge=1)


class Code(NamedTuple):
    """How one batch was encoded."""

    latents_NM: Float[Tensor, "N M"]
    pre_NM: Float[Tensor, "N M"]


class Batch(NamedTuple):
    """Activations of one step.

    Attributes:
        before_ND: of the token before each, for architectures that `needs_pairs`.
    """

    now_ND: Float[Tensor, "N D"]
    before_ND: Float[Tensor, "N D"] | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        before_ND = None if self.before_ND is None else self.before_ND.to(device)
        return Batch(self.now_ND.to(device), before_ND)


Weights = Mapping[str, Tensor]


class Architecture(ABC):
    """One kind of autoencoder, as it is trained."""

    saved_as: ClassVar[Inference]
    needs_pairs: ClassVar[bool] = False
    rates: ClassVar[Mapping[str, float]] = {}
    """Weights that learn at a multiple of the rate."""

    @abstractmethod
    def extra_weights(self, pre_NM: Tensor) -> dict[str, Tensor]:
        """Trained tensors beside `W_enc`, `W_dec` and `b_dec`, as they start.

        Args:
            pre_NM: pre-activations of some rows as those three give them.
        """

    @abstractmethod
    def code(self, weights: Weights, x_ND: Tensor) -> Code:
        """Encode a batch, as in training."""

    @abstractmethod
    def losses(self, weights: Weights, batch: Batch, code: Code) -> dict[str, Tensor]:
        """Weighted terms of the loss; `ERROR` is the reconstruction's."""

    @abstractmethod
    def observe(self, code: Code, step: int) -> None:
        """Learn from a finished step what is not learnt by gradients."""

    @abstractmethod
    def memory(self) -> dict[str, Tensor]:
        """What `observe` has learnt: tensors that, filled again, it goes on from."""

    @abstractmethod
    def saved_weights(self, weights: Weights) -> dict[str, Tensor]:
        """The tensors of `saved_as`."""


def affine_of(weights: Weights) -> Affine:
    """Encoder and decoder of trained weights."""
    return Affine(weights["W_enc"], weights["b_enc"], weights["W_dec"], weights["b_dec"])


def detached(weights: Weights) -> dict[str, Tensor]:
    """Copies without gradients."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


class SparsityControl:
    """A penalty's coefficient that is moved until as many latents are active as were asked for.

    Each step multiplies it by exp(speed · (L0 - k) / k), the fraction clipped to ±1. Architectures
    with a penalty can so be compared with top-k ones at equal L0, without a sweep.
    """

    def __init__(self, k: int, start: float, speed: float = 0.01) -> None:
        self.k, self.speed = k, speed
        self.coefficient = torch.tensor(start, dtype=torch.float64)

    def observe(self, l0: float) -> None:
        """Move the coefficient by one step's L0."""
        excess = max(-1.0, min(1.0, (l0 - self.k) / self.k))
        self.coefficient.mul_(math.exp(self.speed * excess))


class RunningThreshold:
    """The mean of the smallest active latent, which replaces the batch when one row is encoded.

    Weighted by recency (`rate`), from the step on in which training has settled a little.
    """

    def __init__(self, rate: float = 0.01, first_step: int = 50) -> None:
        self.rate, self.first_step = rate, first_step
        self.value = torch.tensor(0.0, dtype=torch.float64)

    def observe(self, latents_NM: Tensor, step: int) -> None:
        """Move the threshold towards one step's smallest active latent."""
        smallest = smallest_active(latents_NM.detach()).double().cpu()
        if step <= self.first_step or not self.value:
            self.value.copy_(smallest)
        elif smallest > 0:
            self.value.lerp_(smallest, self.rate)
