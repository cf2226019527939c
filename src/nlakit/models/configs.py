"""`config.json` of a model directory, read so that it can only describe a model.

transformers acts on more than a description: on a name of an attention kernel, which it would
download and run, on other files of weights, on code beside them. Such keys are dropped where the
model is the same without them, and refused where it is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from nlakit.errors import CheckpointError
from nlakit.files import read_json_object
from nlakit.models.families import WRAPPERS, family_of

CONFIG_NAME = "config.json"
BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers raises for a config of wrong types or impossible sizes."""

DROPPED = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "kernel_config",
        "name_or_path",
        "use_kernels",
    }
)
"""Keys that say how or by whose code a model runs; keys that begin with `_` are dropped as well."""

QUANTIZED = ("quantization_config", "compression_config")
REFUSED = ("transformers_weights", "fusion_config", "per_layer_config")
"""Keys that change which weights are read, or what the blocks compute."""

NOT_RUN = ("final_logit_softcapping", "use_bidirectional_attention")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class StoredConfig(NamedTuple):
    """A language model's config.

    Attributes:
        wrapper: `model_type` of the multimodal model around it in the files; None: there is none.
    """

    config: Any
    wrapper: str | None


def read_config(directory: str | Path) -> StoredConfig:
    """The config of a directory's language model, and what it lies in.

    Of a multimodal wrapper it is the text model's, with the wrapper's special tokens.

    Raises:
        CheckpointError: no `config.json`, not JSON, a family that is not supported, quantized
            weights, or a part of the model that is not run here.
    """
    path = Path(directory) / CONFIG_NAME
    if not path.exists() and (path.parent / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory} is an adapter, and the model under it is wanted here. Give that one, or "
            "the merged model (PEFT's `merge_and_unload`)."
        )
    raw = _described(read_json_object(path, CheckpointError), path)
    model_type = raw.get("model_type")
    wrapper = model_type if isinstance(model_type, str) and model_type in WRAPPERS else None
    if wrapper is None:
        family_of(model_type if isinstance(model_type, str) else None)
    try:
        config: Any = CONFIG_MAPPING[str(model_type)].from_dict(_without_surplus(raw))
        config = config if wrapper is None else _text_config(config, raw)
    except CheckpointError:
        raise
    except BUILD_ERRORS as error:
        raise CheckpointError(f"{path} is not a usable config: {error}") from error
    _check_sizes(config, path)
    for part in NOT_RUN:
        if getattr(config, part, None):
            found = getattr(config, part)
            raise CheckpointError(f"{path}: {part} is {found}, which nlakit does not run.")
    return StoredConfig(config, wrapper)


def load_config(directory: str | Path) -> Any:
    """The config alone. Raises `CheckpointError` as `read_config` does."""
    return read_config(directory).config


def _described(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a config says about the model, its parts' configs included.

    Raises:
        CheckpointError: it asks for what is not read or run here.
    """
    for key in QUANTIZED:
        if raw.get(key):
            raise CheckpointError(_quantized(raw[key], f"{path}: {key}"))
    for key in REFUSED:
        if raw.get(key):
            raise CheckpointError(f"{path}: {key} is {raw[key]!r}, which nlakit does not follow.")
    kept = {k: v for k, v in raw.items() if k not in DROPPED and not k.startswith("_")}
    return {k: _described(v, path) if k.endswith("_config") and isinstance(v, dict) else v
            for k, v in kept.items()}  # fmt: skip


def _quantized(found: Any, where: str) -> str:
    method = found.get("quant_method") if isinstance(found, dict) else found
    return (
        f"{where} says {method!r}: the weights are quantized, which nlakit does not read. Give the "
        "checkpoint that they were quantized from, or load this one with transformers, call "
        "`dequantize()`, and give what `save_pretrained` writes."
    )


def _without_surplus(raw: dict[str, Any]) -> dict[str, Any]:
    """A reconstructor's config may say `num_hidden_layers: K + 1` and list all layers' types."""
    types, num_layers = raw.get("layer_types"), raw.get("num_hidden_layers")
    if isinstance(types, list) and isinstance(num_layers, int):
        return {**raw, "layer_types": types[:num_layers]}
    return raw


def _text_config(config: Any, raw: dict[str, Any]) -> Any:
    text = getattr(config, WRAPPERS[config.model_type].text_config)
    family_of(text.model_type)
    text.dtype = text.dtype or config.dtype
    # Head and embedding lie in the wrapper, which decides whether they are one.
    text.tie_word_embeddings = config.tie_word_embeddings
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if raw.get(name) is not None:
            setattr(text, name, raw[name])
    return text


def _check_sizes(config: Any, path: Path) -> None:
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                 "max_position_embeddings"):  # fmt: skip
        found = getattr(config, name, None)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise CheckpointError(f"{path}: {name} is {found!r}, not a number above 0.")
    if not isinstance(config.tie_word_embeddings, bool):
        found = config.tie_word_embeddings
        raise CheckpointError(f"{path}: tie_word_embeddings is {found!r}, not true or false.")
    if config.dtype is not None and config.dtype not in DTYPES:
        raise CheckpointError(_quantized(str(config.dtype), f"{path}: dtype"))
