"""Several processes, one run (`torchrun`): each takes a share of the rows, gradients are summed.

Losses are divided by counts of the whole batch, so the sum over processes is the gradient that one
process would have. Only what is trained travels: with LoRA the adapters and the AR's head. What is
not divided (evaluations, extraction) all processes do alike, and the first writes what comes of
it: a sharded model (`models.sharding`) is run by all or by none. In a single process every
function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from nlakit.models.lora import is_adapted
from nlakit.models.sharding import whole_state

PATIENCE = timedelta(days=2)
"""How long others wait for the first: a teacher's batch may take a day."""


@contextmanager
def joined() -> Iterator[None]:
    """While it is open, the processes that `torchrun` has started, if any, are one run."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def num_processes() -> int:
    """How many take part; 1 where there is nothing to join."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def share(num_rows: int) -> range:
    """The rows of a batch that this process takes: neighbours, as many as the others' but one."""
    size, number = num_processes(), rank()
    return range(num_rows * number // size, num_rows * (number + 1) // size)


def total(value: float) -> float:
    """A number summed over all processes."""
    if num_processes() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.item()


def gathered(own: list[str]) -> list[str]:
    """The texts of all processes, those of the first one first."""
    if num_processes() == 1:
        return own
    found: list[list[str]] = [[] for _ in range(num_processes())]
    dist.all_gather_object(found, own)
    return [text for texts in found for text in texts]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all processes, in place; one that is missing counts as zero."""
    if num_processes() == 1:
        return
    trained = list(parameters)
    if not trained:
        return
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in trained if p.grad is not None]
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def wait() -> None:
    """Go on when all processes have come here."""
    if num_processes() > 1:
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block alone, then the others, who find its files.

    It runs no model in there: of a sharded one the others have a part.
    """
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


class Saved(Protocol):
    """An AV or an AR."""

    def save(self, directory: Path) -> None:
        """Write its directory."""
        ...


def save(made: Saved, model: Any, directory: Path) -> None:
    """The first process writes a directory; of a sharded model all bring their parts.

    Args:
        model: what holds the weights of `made`.
    """
    if is_first():
        made.save(directory)
    elif not is_adapted(model):
        whole_state(model)
