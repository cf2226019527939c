"""Files of autoencoders: JSON and safetensors, read with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.errors import CheckpointError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `CheckpointError`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Copy it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not a JSON object.")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Is the download complete?")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy it again.") from error


def wanted(table: Mapping[str, Any], key: str, source: Path) -> Any:
    """An entry that must be there. Raises `CheckpointError` naming the file and the key."""
    if table.get(key) is None:
        known = ", ".join(sorted(table)) or "nothing"
        raise CheckpointError(f"{source} has no {key!r}; it has {known}.")
    return table[key]


def assembled(config: SaeConfig, tensors: Mapping[str, Tensor], source: Path) -> SparseAutoencoder:
    """An autoencoder in float32 from tensors of any precision, which `config.dtype` remembers.

    Raises:
        CheckpointError: a shape does not fit, or a number is not finite; names the file.
    """
    dtype = NAMES.get(tensors["W_enc"].dtype, "float32")
    weights = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{source}: {bad[0]} holds numbers that are not finite.")
    try:
        return SparseAutoencoder(config.model_copy(update={"dtype": dtype}), weights)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def not_an_autoencoder(source: Path, found: str) -> CheckpointError:
    """The refusal of a transcoder: it reads one site and writes another."""
    return CheckpointError(
        f"{source} is a {found}, which reads one site and writes another; nlakit reads "
        "autoencoders, which read and write the same one."
    )
