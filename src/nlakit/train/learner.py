"""One set of trainable parameters with its optimiser, schedule and guard against bad gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nlakit.config import FrozenModel
from nlakit.models.sharding import own_part

from . import distributed
from .muon import Muon

MUON_MOMENTUM = 0.95


class OptimizerConfig(FrozenModel):
    """AdamW with a linear warm-up and a cosine descent to `final_fraction` of the peak."""

    lr: float = Field(gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    muon_lr: float | None = Field(default=None, gt=0)
    """Peak rate of Muon for the matrices of the blocks; None trains everything with AdamW."""


class Learner:
    """Updates those of `parameters` that are not frozen; a step whose gradients are not finite is
    skipped and counted.

    Weights in half precision have a float32 master copy here, which takes the updates: most of them
    are smaller than what bfloat16 can tell apart. Of sharded weights (`models.sharding`) it
    updates, and keeps the state of, this process's parts.

    Attributes:
        parameters: what is updated, by name: weights, master copies, or this process's parts.
        halves: weights in half precision, by name.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, num_steps: int
    ):
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        self.sharded = {name: p for name, p in trained.items() if isinstance(p, DTensor)}
        self.halves = {
            name: p
            for name, p in trained.items()
            if p.dtype.itemsize == 2 and name not in self.sharded
        }
        masters = {name: nn.Parameter(p.detach().float()) for name, p in self.halves.items()}
        parts = {name: nn.Parameter(own_part(p)) for name, p in self.sharded.items()}
        self.parameters = {**trained, **masters, **parts}
        self.config, self.num_steps = config, num_steps
        use_muon = config.muon_lr is not None
        hidden = {n: p for n, p in self.parameters.items() if use_muon and _is_hidden_matrix(n, p)}
        self.muon = Muon(hidden, MUON_MOMENTUM, config.weight_decay)
        rest = [p for name, p in self.parameters.items() if name not in hidden]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
        self.skipped = 0

    def schedule(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0, as a share of the peak."""
        if step < self.config.warmup_steps:
            return (step + 1) / self.config.warmup_steps
        left = max(1, self.num_steps - self.config.warmup_steps)
        done = min(1.0, (step - self.config.warmup_steps) / left)
        floor = self.config.final_fraction
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    def update(self, step: int) -> float:
        """Clip, step and clear the gradients, summed over processes; returns their norm before."""
        self._sum_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.schedule(step)
        norm = self._gradient_norm()
        nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.max_grad_norm, norm)
        # The one time that a step waits for the device.
        found = float(norm)
        if math.isfinite(found):
            self.optimizer.step()
            self.muon.step((self.config.muon_lr or 0.0) * self.schedule(step))
            self._write_halves()
        else:
            self.skipped += 1
        for parameter in self.parameters.values():
            parameter.grad = None
        return found

    @torch.no_grad()
    def _write_halves(self) -> None:
        """Round the master copies into the weights."""
        _copy_all(list(self.halves.values()), [self.parameters[name] for name in self.halves])

    @torch.no_grad()
    def _widen_gradients(self) -> None:
        """Give the gradients of weights in half precision to their master copies."""
        given = {name: p for name, p in self.halves.items() if p.grad is not None}
        gradients = {name: torch.empty_like(self.parameters[name]) for name in given}
        _copy_all(list(gradients.values()), [p.grad for p in given.values() if p.grad is not None])
        for name, parameter in given.items():
            self.parameters[name].grad = gradients[name]
            parameter.grad = None

    def _sum_gradients(self) -> None:
        """Over processes; of sharded weights each then has the sum of its part."""
        self._widen_gradients()
        replicated = [p for name, p in self.parameters.items() if name not in self.sharded]
        distributed.sum_gradients(replicated)
        for name, weight in self.sharded.items():
            self.parameters[name].grad = None if weight.grad is None else own_part(weight.grad)
            weight.grad = None

    def _gradient_norm(self) -> Tensor:
        """Of all gradients together, the other processes' parts among them."""
        norm = self._norm_of(self.parameters.keys() - self.sharded.keys())
        if not self.sharded:
            return norm
        parts = distributed.total(float(self._norm_of(self.sharded.keys())) ** 2)
        return (norm**2 + parts) ** 0.5

    def _norm_of(self, names: Set[str]) -> Tensor:
        gradients = (p.grad for name, p in self.parameters.items() if name in names)
        return nn.utils.get_total_norm([each for each in gradients if each is not None])

    def state(self) -> dict[str, Tensor]:
        """Weights, moments and counters as one flat table of tensors."""
        table = {f"weight.{name}": p.detach().contiguous() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                table[f"{key}.{name}"] = torch.as_tensor(value).clone()
        table |= {f"momentum.{name}": buffer for name, buffer in self.muon.buffers.items()}
        table["skipped"] = torch.tensor(self.skipped)
        return table

    def load_state(self, table: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, wherever the table is. KeyError when a weight is missing."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(table[f"weight.{name}"])
                moments = ("step", "exp_avg", "exp_avg_sq")
                if f"step.{name}" in table:
                    # The fused step wants even its count of steps where the parameter is.
                    self.optimizer.state[parameter] = {
                        k: table[f"{k}.{name}"].to(parameter.device, copy=True) for k in moments
                    }
        self._write_halves()
        for name, buffer in self.muon.buffers.items():
            buffer.copy_(table[f"momentum.{name}"])
        self.skipped = int(table["skipped"])


def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into others of any dtype: on an accelerator in a few kernels, not one each."""
    if targets:
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and ".layers." in f".{name}"
