"""Muon: momentum whose matrices are brought near to orthogonal before they are applied.

On storyworld targets it leaves the plateaus between one kind of fact and the next in about two
thirds
of AdamW's steps. Torch ships one that multiplies in bfloat16, which CPUs without that hardware do
slower than float32; ours works in float32 and on all matrices of one shape at once.
Method: K. Jordan, "Muon: an optimizer for hidden layers" (2024), with its published coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


def orthogonalized(stack_NRC: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1 by a Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    tall = stack_NRC.shape[1] > stack_NRC.shape[2]
    x = stack_NRC.mT if tall else stack_NRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """The optimiser for matrices inside a network; embeddings, heads and vectors are not for it."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], momentum: float, weight_decay: float
    ):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.buffers = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.parameters = dict(parameters)
        self.shapes: dict[torch.Size, list[str]] = {}
        for name, parameter in parameters.items():
            self.shapes.setdefault(parameter.shape, []).append(name)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the gradients that there are; a matrix without one is left alone."""
        for shape, names in self.shapes.items():
            present = [name for name in names if self.parameters[name].grad is not None]
            if not present:
                continue
            directions = orthogonalized(torch.stack([self._direction(name) for name in present]))
            # Keeps the size of an update's effect independent of the matrix's shape.
            size = lr * max(1.0, shape[0] / shape[1]) ** 0.5
            for name, direction in zip(present, directions, strict=True):
                self.parameters[name].mul_(1 - lr * self.weight_decay).add_(direction, alpha=-size)

    def _direction(self, name: str) -> Tensor:
        gradient, buffer = self.parameters[name].grad, self.buffers[name]
        assert gradient is not None
        buffer.lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(buffer, self.momentum)
