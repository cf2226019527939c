"""LoRA adapters (PEFT) on one base in memory.

A view is a copy of a model's modules over the same weights. Each of the pair, and the frozen start
of each, is a view with an adapter of its own; the base, without any, is the target. Which adapter
runs follows from which view is run: there is no switch that could stand wrong when a gradient makes
a block again, or while another thread writes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from nlakit.errors import CheckpointError, MissingExtraError
from nlakit.models.families import family_of
from nlakit.models.lora import ADAPTER_NAME, IN_MEMORY, PREFIX, adapter_state
from nlakit.models.sharding import holds_weights


def shared_copy(model: nn.Module) -> Any:
    """A copy of the modules that put a model together, over the very modules with its weights.

    No tensor is copied, and where weights are sharded, what is gathered for one is for all.
    """
    weighty = filter(holds_weights, model.modules())
    shared = chain(model.parameters(), model.buffers(), weighty)
    return copy.deepcopy(model, {id(each): each for each in shared})


def adapted(model: Any, rank: int, alpha: int, seed: int, base_name: str) -> Any:
    """A view of `model` with a fresh adapter, which changes nothing yet; freezes its weights.

    Every matrix of every block is adapted. The adapter is float32 whatever the base is.

    Args:
        model: a causal language model or a backbone, such as one cut after a reconstructor's site.
        seed: decides the adapter's random half.
        base_name: written into the adapter's files, as the model that it belongs to.

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "lora") from error
    view = shared_copy(model)
    matrices = dict(_matrices(view))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(matrices),
        fan_in_fan_out=any(isinstance(each, Conv1D) for each in matrices.values()),
        base_model_name_or_path=base_name,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, view, IN_MEMORY)
    for parameter in adapter_state(view).values():
        parameter.data = parameter.data.float()
    return view.eval()


def load_adapter(view: Any, directory: Path, *, frozen: bool = False) -> Any:
    """Fill the adapter of a view from a directory that `save_model` wrote; returns the view.

    Args:
        frozen: it is a reference and takes no gradient.

    Raises:
        CheckpointError: the file cannot be read, or holds the adapter of another model.
    """
    path, wanted = directory / ADAPTER_NAME, adapter_state(view)
    try:
        found = {key.removeprefix(PREFIX): t for key, t in load_file(str(path)).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Train it again, or copy it again."
        ) from error
    shapes = [{key: t.shape for key, t in each.items()} for each in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"{path} holds an adapter of another model or rank.")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(found[key])
            parameter.requires_grad_(not frozen)
    return view


def _matrices(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The linear maps of a model's blocks, by name."""
    blocks = family_of(model.config.model_type).blocks
    for name, module in model.named_modules():
        if f".{blocks}." in f".{name}" and isinstance(module, nn.Linear | Conv1D):
            yield name, module
