"""LoRA adapters on disk, merged into the weights of their base when it is loaded.

The files are PEFT's: `adapter_config.json` and `adapter_model.safetensors`. A merged model is an
ordinary one, so every engine runs it and it exports like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlakit.errors import CheckpointError
from nlakit.models.hub import locate

CONFIG_NAME, ADAPTER_NAME = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
IN_MEMORY = "default"
"""What an adapter in memory is called; PEFT's files leave the name out."""
UNSUPPORTED = ("use_dora", "alpha_pattern", "layer_replication", "lora_bias")


class Checkpoint(NamedTuple):
    """Where the parts of a model directory are.

    Attributes:
        weights: directory with `config.json` and the weights.
        tokenizer: directory with the tokenizer.
        adapter: directory of the adapter to merge; None: there is none.
    """

    weights: Path
    tokenizer: Path
    adapter: Path | None


def open_checkpoint(directory: str | Path, base: str | Path | None = None) -> Checkpoint:
    """Find the base of an adapter directory; any other directory is its own.

    Args:
        base: directory of the base model; None: the one that the adapter's config names.

    Raises:
        CheckpointError: an adapter of a kind that is not merged here, or no base to be found.
    """
    path = Path(directory)
    if not (path / CONFIG_NAME).is_file():
        return Checkpoint(path, path, None)
    named = base or _read_config(path).get("base_model_name_or_path")
    if not named:
        raise CheckpointError(f"{path / CONFIG_NAME} names no base model. Give it as the target.")
    weights = locate(named)
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    return Checkpoint(weights, path if has_tokenizer else weights, path)


def is_adapted(model: Any) -> bool:
    """Whether a model in memory has an adapter in its blocks (`models.adapters`)."""
    return bool(getattr(model, "peft_config", None))


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors of a model in memory, as PEFT names them in its files."""
    return {
        name.replace(f".{IN_MEMORY}.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


class Factors(NamedTuple):
    """The two factors of a weight's change: `down` is r x in, `up` is out x r."""

    down: Tensor
    up: Tensor


def merge_adapter(
    state: Mapping[str, Tensor], directory: Path, named: Iterable[tuple[str, Tensor]]
) -> None:
    """Add an adapter's changes to a model's weights, in place.

    Args:
        state: the model's `state_dict`, whose tensors are changed.
        directory: the adapter's, for its config and for messages.
        named: the adapter's tensors, by the names of the weights that they change plus
            `.lora_A.weight` or `.lora_B.weight`; any other name replaces the weight whole.

    Raises:
        CheckpointError: a tensor that changes no weight, or of a wrong shape.
    """
    config = _read_config(directory)
    halves: dict[str, dict[str, Tensor]] = {}
    with torch.no_grad():
        for key, tensor in named:
            weight, found, half = key.partition(".lora_")
            if found:
                halves.setdefault(f"{weight}.weight", {})[half.removesuffix(".weight")] = tensor
            else:
                _weight(state, key, directory).copy_(tensor)
        for key, pair in halves.items():
            if set(pair) != {"A", "B"}:
                raise CheckpointError(f"{directory}: {key} has the parts {sorted(pair)}, not A, B.")
            _add(_weight(state, key, directory), Factors(pair["A"], pair["B"]), config, key)


def _add(weight: Tensor, factors: Factors, config: Mapping[str, Any], key: str) -> None:
    rank = factors.down.shape[0]
    alpha = config.get("lora_alpha", rank)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    change = scale * (factors.up.float() @ factors.down.float())
    if config.get("fan_in_fan_out"):
        change = change.T
    if change.shape != weight.shape:
        raise CheckpointError(
            f"The adapter changes {key} by {tuple(change.shape)}, the base has "
            f"{tuple(weight.shape)}. It was made for another base model."
        )
    weight.copy_(weight.float() + change.to(weight.device))


def _weight(state: Mapping[str, Tensor], key: str, directory: Path) -> Tensor:
    if key not in state:
        raise CheckpointError(
            f"{directory / ADAPTER_NAME} changes {key}, which the base does not have. "
            "It was made for another base model."
        )
    return state[key]


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r}; only LORA adapters are merged.")
    for option in UNSUPPORTED:
        if raw.get(option):
            raise CheckpointError(
                f"{path}: {option} is {raw[option]!r}, which is not merged here. Merge the adapter "
                "with PEFT (`merge_and_unload`) and give the result."
            )
    return raw
