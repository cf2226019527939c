"""LoRA adapters on disk, merged into the weights of their base when it is loaded.

The files are PEFT's: `adapter_config.json` and `adapter_model.safetensors`. What is merged equals
what PEFT computes with them; what would not is refused, by the name of the option. A merged model
is an ordinary one, so every engine runs it and it exports like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlakit.errors import CheckpointError
from nlakit.files import read_json_object
from nlakit.models.hub import GGUF, locate
from nlakit.models.weights import check_finite

CONFIG_NAME, ADAPTER_NAME = "adapter_config.json", "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
PREFIX = "base_model.model."
BASE_LAYER = ".base_layer."
IN_MEMORY = "default"
"""What an adapter in memory is called; PEFT's files leave the name out."""

MERGED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_to_transform",
        "lora_alpha",
        "modules_to_save",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
"""Options whose effect is in the tensors, or that are applied here."""
NOTES = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "inference_mode",
        "layers_pattern",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
"""Options that a merged model does not depend on. Any other one that is set is refused."""
BASE_KEEPING_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to start that leave the base's weights as they are. PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and
whatever comes later change them."""
PLAIN_PATTERN = re.compile(r"\^?[\w.]+")
"""A key of `rank_pattern` or `alpha_pattern` that is a name. Others are regular expressions, which
a file could make endless."""
DEFAULT_RANK = DEFAULT_ALPHA = 8


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
    """Find the base of an adapter directory; any other directory, or a GGUF file, is its own.

    Args:
        base: directory of the base model; None: the one that the adapter's config names.

    Raises:
        CheckpointError: an adapter of a kind that is not merged here, or no base to be found.
    """
    path = locate(directory) if str(directory).endswith(GGUF) else Path(directory)
    if not (path / CONFIG_NAME).exists():
        return Checkpoint(path, path, None)
    config = {} if base else _read_config(path)
    named, revision = base or config.get("base_model_name_or_path"), config.get("revision")
    if not named or not isinstance(named, str | Path):
        raise CheckpointError(f"{path / CONFIG_NAME} names no base model. Give it as the target.")
    if revision not in (None, "main") and not Path(named).is_dir():
        raise CheckpointError(
            f"{path / CONFIG_NAME}: revision is {revision!r}, of which nothing is downloaded here. "
            f"Download that revision of {named} and give its directory as the target."
        )
    weights = locate(named)
    if (weights / CONFIG_NAME).exists():
        raise CheckpointError(
            f"{weights}, the base of the adapter {path}, is an adapter itself. Merge it first, or "
            "give the model under it."
        )
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    return Checkpoint(weights, path if has_tokenizer else weights, path)


class PlainLora(NamedTuple):
    """All that a plain adapter's config decides: `W + alpha / rank · BA`."""

    rank: int
    alpha: int


def plain_rank(directory: Path) -> PlainLora | None:
    """Rank and alpha of an adapter without any other option; None for any other directory.

    Raises:
        CheckpointError: an adapter of a kind that is not merged here.
    """
    if not (directory / CONFIG_NAME).exists():
        return None
    config = _read_config(directory)
    rank, alpha = config.get("r", DEFAULT_RANK), config.get("lora_alpha", DEFAULT_ALPHA)
    others = MERGED - {"r", "lora_alpha", "init_lora_weights", "target_modules", "fan_in_fan_out"}
    plain = all(config.get(option) in (None, False, "none", [], {}) for option in others)
    whole = type(rank) is int and type(alpha) is int and rank > 0
    return PlainLora(rank, alpha) if plain and whole else None


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


class Base(NamedTuple):
    """What an adapter is merged into.

    Attributes:
        state: the model's `state_dict`, whose tensors are changed in place.
        transposed: names of weights that are in x out (Conv1D).
        one_matrix: names of embedding and head where both are one matrix.
    """

    state: Mapping[str, Tensor]
    transposed: frozenset[str]
    one_matrix: tuple[str, ...]


class AdapterTensor(NamedTuple):
    """A tensor of an adapter's file.

    Attributes:
        module: the module it belongs to, by the name that PEFT knew it by.
        weight: name in memory of the weight that it changes.
        half: "A" or "B", the factor of a change; None: the whole weight.
        wrapped: a whole weight that a factor pair is added to.
    """

    module: str
    weight: str
    half: str | None
    wrapped: bool
    tensor: Tensor


def split_name(key: str) -> tuple[str, str, str | None, bool]:
    """What a name of an adapter's file says: module, weight, half and wrapped, as `AdapterTensor`.

    The weight has PEFT's own prefix (`PREFIX`) taken off and is not yet one of memory.
    """
    key = key.removeprefix(PREFIX)
    module, found, half = key.partition(".lora_")
    if found:
        return module, f"{module}.weight", half.removesuffix(".weight"), False
    plain = key.replace(BASE_LAYER, ".")
    return plain.rpartition(".")[0], plain, None, BASE_LAYER in key


def merge_adapter(base: Base, directory: Path, tensors: Iterable[AdapterTensor]) -> None:
    """Add an adapter's changes to a model's weights, in place.

    Args:
        directory: the adapter's, for its config and for messages.
        tensors: of its file.

    Raises:
        CheckpointError: an option that is not merged, or a tensor that changes no weight or is of a
            wrong shape.
    """
    config = _read_config(directory)
    halves: dict[str, dict[str, AdapterTensor]] = {}
    whole: dict[str, AdapterTensor] = {}
    for each in tensors:
        if ".modules_to_save." in each.weight:
            # PEFT writes such names where a saved module has a trained bias, and reads none back.
            raise _unmerged(directory / CONFIG_NAME, "bias", config.get("bias"))
        _check_shared(each, config, directory, base.one_matrix)
        check_finite(each.tensor, torch.float32, f"{directory / ADAPTER_NAME}: {each.weight}")
        if each.half is None:
            whole[each.weight] = each
        else:
            halves.setdefault(each.weight, {})[each.half] = each
    one = [whole[name].tensor for name in base.one_matrix if name in whole]
    if len(one) > 1 and not torch.equal(*one):
        raise CheckpointError(
            f"{directory} replaces {' and '.join(base.one_matrix)} by two matrices; in the base "
            "they are one. Give the merged model (PEFT's `merge_and_unload`)."
        )
    with torch.no_grad():
        for each in whole.values():
            if each.weight in halves and not each.wrapped:
                raise CheckpointError(f"{directory} both replaces and adapts {each.weight}.")
            _replace(_weight(base, each.weight, directory), each, directory)
        for weight, parts in halves.items():
            if set(parts) != {"A", "B"}:
                raise CheckpointError(
                    f"{directory}: {weight} has the parts {sorted(parts)}, not A and B."
                )
            found = _weight(base, weight, directory)
            change = _change(parts["A"], parts["B"], config, directory)
            _add(found, change.T if weight in base.transposed else change, weight, directory)


def _check_shared(
    each: AdapterTensor, config: Mapping[str, Any], directory: Path, one_matrix: tuple[str, ...]
) -> None:
    """PEFT changes one use of a matrix that is embedding and head, and keeps the other."""
    saved = config.get("modules_to_save") or []
    alone = each.half is not None or any(_ends_with(each.module, name) for name in saved)
    if each.weight in one_matrix and alone:
        raise CheckpointError(
            f"{directory} changes {each.weight} alone, which in the base is one matrix "
            f"({' and '.join(one_matrix)}). Merge the adapter with PEFT (`merge_and_unload`) on a "
            "base whose tie_word_embeddings is false, and give the result."
        )


def _replace(weight: Tensor, each: AdapterTensor, directory: Path) -> None:
    if weight.shape != each.tensor.shape:
        raise CheckpointError(
            f"{directory} holds {each.weight} of the shape {tuple(each.tensor.shape)}, the base "
            f"has {tuple(weight.shape)}. Where tokens were added to the vocabulary, give the "
            "merged model with its resized embedding (PEFT's `merge_and_unload`)."
        )
    check_finite(each.tensor, weight.dtype, f"{directory / ADAPTER_NAME}: {each.weight}")
    weight.copy_(each.tensor)


def _add(weight: Tensor, change: Tensor, name: str, directory: Path) -> None:
    if change.shape != weight.shape:
        raise CheckpointError(
            f"{directory}: the adapter changes {name} by {tuple(change.shape)}, the base has "
            f"{tuple(weight.shape)}. It was made for another base model."
        )
    merged = weight.float() + change.to(weight.device)
    check_finite(merged, weight.dtype, f"{directory}: {name}, merged,")
    weight.copy_(merged)


def _change(
    down: AdapterTensor, up: AdapterTensor, config: Mapping[str, Any], directory: Path
) -> Tensor:
    """The scaled product of two factors, out x in. `down` is r x in, `up` is out x r.

    Raises:
        CheckpointError: the config is another adapter's.
    """
    path, module = directory / CONFIG_NAME, down.module
    if not _is_target(module, config):
        raise CheckpointError(
            f"{directory / ADAPTER_NAME} changes {module}, which {path} does not name among its "
            "target_modules. The two do not belong together."
        )
    rank = _by_pattern(config, "rank_pattern", module, config.get("r", DEFAULT_RANK))
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha", DEFAULT_ALPHA))
    shapes = tuple(down.tensor.shape), tuple(up.tensor.shape)
    fits = len(shapes[0]) == len(shapes[1]) == 2 and shapes[0][0] == shapes[1][1] == rank
    if not fits or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(
            f"{path} says rank {rank!r} and lora_alpha {alpha!r} for {module}, whose factors are "
            f"{shapes[0]} and {shapes[1]}. The two do not belong together."
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scale * (up.tensor.float() @ down.tensor.float())


def _is_target(module: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT adapts a module. A pattern, or none at all, is taken at its word."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    if isinstance(excluded, list) and any(_ends_with(module, name) for name in excluded):
        return False
    if targets is None or isinstance(targets, str):
        return True
    layers = config.get("layers_to_transform")
    wanted = layers if isinstance(layers, list) else [] if layers is None else [layers]
    block = re.search(r"(?:^|\.)(\d+)\.", module)
    in_layers = not wanted or (block is not None and int(block[1]) in wanted)
    return in_layers and any(_ends_with(module, name) for name in list(targets))


def _ends_with(module: str, name: Any) -> bool:
    return module == name or module.endswith(f".{name}")


def _by_pattern(config: Mapping[str, Any], option: str, module: str, default: Any) -> Any:
    for name, value in (config.get(option) or {}).items():
        # As PEFT looks names up, for which a dot is any character.
        if re.match(rf"(.*\.)?({name})$", module):
            return value
    return default


def _weight(base: Base, name: str, directory: Path) -> Tensor:
    if name not in base.state:
        raise CheckpointError(
            f"{directory / ADAPTER_NAME} changes {name}, which the base does not have, or not as a "
            "matrix that is merged here. Was it made for another base model?"
        )
    return base.state[name]


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_NAME
    raw = read_json_object(path, CheckpointError)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r}; only LORA adapters are merged.")
    for option in sorted(raw.keys() - MERGED - NOTES):
        if raw[option]:
            raise _unmerged(path, option, raw[option])
    start = raw.get("init_lora_weights")
    if start not in BASE_KEEPING_INITS:
        raise _unmerged(path, "init_lora_weights", start, "it starts by changing the base")
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = raw.get(option) or {}
        if not isinstance(patterns, dict) or not all(map(PLAIN_PATTERN.fullmatch, patterns)):
            raise _unmerged(path, option, patterns)
    if not (directory / ADAPTER_NAME).exists() and (directory / PICKLED_NAME).exists():
        raise CheckpointError(
            f"{directory / ADAPTER_NAME} is missing, and {PICKLED_NAME} is pickled: unpickling "
            "runs code from the file. Save the adapter with PEFT as safetensors where you trust it."
        )
    return raw


def _unmerged(path: Path, option: str, found: Any, why: str = "") -> CheckpointError:
    reason = f": {why}" if why else ""
    return CheckpointError(
        f"{path}: {option} is {found!r}, which is not merged here{reason}. Merge the adapter with "
        "PEFT (`merge_and_unload`) and give the result."
    )
