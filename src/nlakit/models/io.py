"""Model directories: safetensors in, safetensors out, whole or not at all.

Nothing here unpickles, runs code from a directory, or reaches the network.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from nlakit.errors import CheckpointError, MissingExtraError
from nlakit.models.families import FAMILIES, WRAPPERS, Family, cut_config, family_of
from nlakit.models.lora import (
    ADAPTER_NAME,
    IN_MEMORY,
    PREFIX,
    adapter_state,
    is_adapted,
    merge_adapter,
)
from nlakit.models.sharding import shard, whole_state, write_weight

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
HEAD_NAME = "value_head.safetensors"
GENERATION_NAME = "generation_config.json"


def load_config(directory: str | Path) -> Any:
    """The Hugging Face config of a directory's language model.

    Of a multimodal wrapper it is the text model's, with the wrapper's special tokens.

    Raises:
        CheckpointError: no `config.json`, not JSON, a family that is not supported, or a part of
            the model that is not run here.
    """
    path = Path(directory) / "config.json"
    raw = _read_json(path)
    model_type = str(raw.get("model_type"))
    if model_type not in WRAPPERS:
        family_of(model_type)
    try:
        config: Any = CONFIG_MAPPING[model_type].from_dict(_without_surplus(raw))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a usable config: {error}") from error
    config = _text_config(config, raw) if model_type in WRAPPERS else config
    for part in ("final_logit_softcapping", "use_bidirectional_attention"):
        if getattr(config, part, None):
            found = getattr(config, part)
            raise CheckpointError(f"{path}: {part} is {found}, which nlakit does not run.")
    return config


def stored_dtype(directory: str | Path) -> torch.dtype:
    """The precision that a directory's config names; float32 where it names none.

    Raises:
        CheckpointError: as `load_config` does.
    """
    found = load_config(directory).dtype
    return found if isinstance(found, torch.dtype) else torch.float32


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory, with the family's chat template where it has none.

    Raises:
        CheckpointError: there is none to read.
    """
    if not (Path(directory) / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{directory} has no tokenizer_config.json. Is it complete?")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"The tokenizer of {directory} cannot be read: {error}") from error
    config = Path(directory) / "config.json"
    family = FAMILIES.get(_read_json(config).get("model_type", "")) if config.is_file() else None
    if family is not None and not tokenizer.chat_template:
        tokenizer.chat_template = family.chat_template
    return tokenizer


def ending_ids(directory: str | Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a chat model's turn: of its tokenizer, its config and its generation config.

    Many name the end of a turn in one of the last two only.

    Raises:
        CheckpointError: a config cannot be read.
    """
    path = Path(directory) / GENERATION_NAME
    generation = _read_json(path) if path.is_file() else {}
    declared = [
        tokenizer.eos_token_id,
        load_config(directory).eos_token_id,
        generation.get("eos_token_id"),
    ]
    listed = [each if isinstance(each, list) else [each] for each in declared]
    return list(dict.fromkeys(found for each in listed for found in each if found is not None))


def weights_dtype(directory: str | Path) -> torch.dtype:
    """Of a directory's matrices on disk, by the first of them.

    Raises:
        CheckpointError: a file is missing or corrupt, or there is no matrix.
    """
    for path in _weight_files(Path(directory)):
        for _, tensor in _read_tensors(path):
            if tensor.is_floating_point() and tensor.ndim > 1:
                return tensor.dtype
    raise CheckpointError(f"{directory} holds no matrix. Is the download complete?")


def _without_surplus(raw: dict[str, Any]) -> dict[str, Any]:
    """A reconstructor's config may say `num_hidden_layers: K + 1` and list all layers' types."""
    types, num_layers = raw.get("layer_types"), raw.get("num_hidden_layers")
    if isinstance(types, list) and isinstance(num_layers, int):
        return {**raw, "layer_types": types[:num_layers]}
    return raw


def _text_config(config: Any, raw: dict[str, Any]) -> Any:
    text = getattr(config, WRAPPERS[config.model_type])
    family_of(text.model_type)
    text.dtype = text.dtype or config.dtype
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if raw.get(name) is not None:
            setattr(text, name, raw[name])
    return text


def load_backbone(
    directory: str | Path,
    num_blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    headless: bool = False,
    adapter: Path | None = None,
) -> Any:
    """A causal language model from `config.json` and safetensors.

    Args:
        num_blocks: keep only the first blocks; None keeps what the config says.
        dtype: in memory, whatever it is on disk.
        headless: return the backbone alone, its final norm replaced by the identity (a
            reconstructor's); such weights may then be in the file or not.
        adapter: directory of a LoRA adapter to merge into the weights.

    Raises:
        CheckpointError: a file is missing or corrupt, a key missing or unexpected, a shape wrong.
    """
    config = _config_of(directory, num_blocks)
    family = family_of(config.model_type)
    model = _unfilled(config, family, dtype, headless=headless)
    _fill(model, Path(directory), family, is_cut=num_blocks is not None, headless=headless)
    if adapter is not None:
        named = _adapter_weights(adapter, model, family, is_cut=num_blocks is not None)
        merge_adapter(model.state_dict(), adapter, named)
    model.eval()
    return getattr(model, family.backbone) if headless else model


def load_sharded(
    directory: str | Path,
    num_blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    device: str,
    headless: bool = False,
    trained: bool = False,
) -> Any:
    """As `load_backbone`, but each process keeps a part (`models.sharding`); all must call it.

    The model is made without memory; each process then reads the files a tensor at a time and
    keeps its part of it.

    Args:
        trained: its weights take gradients.

    Raises:
        CheckpointError: as `load_backbone` does.
        MissingExtraError: accelerate, which PEFT brings, is not installed.
    """
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise MissingExtraError("accelerate", "lora") from error
    config = _config_of(directory, num_blocks)
    family = family_of(config.model_type)
    empty = init_empty_weights(include_buffers=False)
    model = _unfilled(config, family, dtype, headless=headless, making=empty)
    shard(model, device, trained)
    _fill(model, Path(directory), family, is_cut=num_blocks is not None, headless=headless)
    model.eval()
    return getattr(model, family.backbone) if headless else model


def _config_of(directory: str | Path, num_blocks: int | None) -> Any:
    config = load_config(directory)
    if num_blocks is None:
        return config
    _check_depth(directory, num_blocks, config.num_hidden_layers)
    return cut_config(config, num_blocks)


def _unfilled(
    config: Any,
    family: Family,
    dtype: torch.dtype,
    *,
    headless: bool,
    making: AbstractContextManager[Any] | None = None,
) -> Any:
    with no_init_weights(), making or nullcontext():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Tying is a part of the initialisation that was left out.
    model.tie_weights()
    return _drop_head(model, family) if headless else model


def load_head(directory: str | Path, d_model: int) -> nn.Linear:
    """The reconstructor's linear head (`weight`, optional `bias`), in float32.

    Raises:
        CheckpointError: the file is missing or corrupt, or not a (d_model, d_model) head.
    """
    path = Path(directory) / HEAD_NAME
    tensors = dict(_read_tensors(path))
    head = nn.Linear(d_model, d_model, bias="bias" in tensors, dtype=torch.float32)
    _check_keys(path, set(tensors), set(head.state_dict()), optional=set())
    for key, tensor in tensors.items():
        _copy(head.state_dict(), key, tensor, path)
    return head


def save_model(
    directory: Path, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None
) -> None:
    """Write weights, `config.json` and tokenizer files into an existing directory.

    Args:
        model: a causal language model, or a backbone: its keys are then written under the
            family's prefix, so that both kinds of directory have the same names. Of one with an
            adapter only the adapter is written, in PEFT's files.
        dtype: of the floating-point weights on disk; None keeps theirs.
    """
    tokenizer.save_pretrained(str(directory))
    if is_adapted(model):
        named = {PREFIX + key: tensor for key, tensor in adapter_state(model).items()}
        save_tensors(directory / ADAPTER_NAME, named, dtype)
        model.peft_config[IN_MEMORY].save_pretrained(str(directory))
        return
    family = family_of(model.config.model_type)
    prefix = "" if hasattr(model, family.backbone) else f"{family.backbone}."
    state = whole_state(model)
    if model.config.tie_word_embeddings:
        state.pop(f"{family.head}.weight", None)
    save_tensors(directory / WEIGHTS_NAME, {prefix + key: t for key, t in state.items()}, dtype)
    config = copy.deepcopy(model.config)
    config.dtype = dtype or model.dtype
    if not prefix:
        # Readers other than ours choose the class by this name.
        config.architectures = [type(model).__name__]
    config.save_pretrained(str(directory))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Write a safetensors file through a temporary name."""
    ready = {key: _for_disk(tensor, dtype) for key, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(ready, str(temporary), metadata={"format": "pt"})
    _sync(temporary)
    os.replace(temporary, path)


@contextmanager
def atomic_directory(directory: str | Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `directory` when the block ends without error.

    After an error the old directory is as it was and the new one is gone.
    """
    final = Path(directory)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _swap(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, final: Path) -> None:
    if not final.exists():
        os.rename(new, final)
        return
    # A directory cannot be renamed onto one with files, so the old one steps aside first.
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _for_disk(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(raw).__name__}.")
    return raw


def _check_depth(directory: str | Path, asked: int, found: int) -> None:
    if not 1 <= asked <= found:
        raise CheckpointError(f"{asked} blocks were asked of {directory}, which has {found}.")


def _drop_head(model: Any, family: Family) -> Any:
    setattr(getattr(model, family.backbone), family.final_norm, nn.Identity())
    setattr(model, family.head, nn.Identity())
    return model


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX_NAME
    if not index.is_file():
        return [directory / WEIGHTS_NAME]
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no weight_map. Is the download complete?")
    return [directory / Path(name).name for name in sorted(set(names.values()))]


def _read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file, one at a time."""
    try:
        with safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                yield key, file.get_tensor(key)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Copy or download it again.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}). Copy or download it again.") from error


def _fill(model: Any, directory: Path, family: Family, *, is_cut: bool, headless: bool) -> None:
    """Copy the directory's tensors into the model, and insist that they fit exactly."""
    state = model.state_dict()
    optional = set()
    if model.config.tie_word_embeddings or headless:
        optional.add(f"{family.head}.weight")
    if headless:
        norm = f"{family.backbone}.{family.final_norm}"
        optional |= {f"{norm}.weight", f"{norm}.bias"}
    found: set[str] = set()
    for path in _weight_files(directory):
        for key, tensor in _named_weights(path, family):
            if not (is_cut and _is_past(key, model, family)):
                found.add(key)
                _copy(state, key, tensor, path)
    _check_keys(directory, found, set(state), optional)


def _named_weights(path: Path, family: Family) -> Iterator[tuple[str, Tensor]]:
    """The language model's weights in a file, under the names they have in memory."""
    for key, tensor in _read_tensors(path):
        if not any(part in key for part in family.ignored):
            yield _full_name(key, family), tensor


def _adapter_weights(
    directory: Path, model: Any, family: Family, *, is_cut: bool
) -> Iterator[tuple[str, Tensor]]:
    """An adapter's tensors by the names of the model's weights, those of cut blocks left out."""
    for key, tensor in _read_tensors(directory / ADAPTER_NAME):
        name = _full_name(key.removeprefix(PREFIX), family)
        if not (is_cut and _is_past(name, model, family)):
            yield name, tensor


def _full_name(key: str, family: Family) -> str:
    """Some files have other prefixes, and some were saved from the backbone, without any."""
    for old, new in family.renamed:
        if key.startswith(old):
            return new + key.removeprefix(old)
    if key.startswith((f"{family.backbone}.", f"{family.head}.")):
        return key
    return f"{family.backbone}.{key}"


def _is_past(key: str, model: Any, family: Family) -> bool:
    """Whether a key belongs to a block that was cut off."""
    prefix = f"{family.backbone}.{family.blocks}."
    block = key.removeprefix(prefix).split(".")[0]
    is_block = key.startswith(prefix) and block.isdigit()
    return is_block and int(block) >= model.config.num_hidden_layers


def _copy(state: Mapping[str, Tensor], key: str, tensor: Tensor, path: Path) -> None:
    """Write a tensor of a file into the weight of its name, if there is one."""
    if key not in state:
        return
    if state[key].shape != tensor.shape:
        raise CheckpointError(
            f"{path}: {key} has the shape {tuple(tensor.shape)}, config.json asks for "
            f"{tuple(state[key].shape)}. Weights and config do not belong together."
        )
    with torch.no_grad():
        write_weight(state[key], tensor)


def _check_keys(where: Path, found: set[str], expected: set[str], optional: set[str]) -> None:
    missing = sorted(expected - found - optional)
    unexpected = sorted(found - expected - optional)
    if missing or unexpected:
        raise CheckpointError(
            f"{where}: {len(missing)} weights are missing{_few(missing)} and {len(unexpected)} are "
            f"unexpected{_few(unexpected)}. Weights and config.json do not belong together."
        )


def _few(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f" ({shown})" if keys else ""
