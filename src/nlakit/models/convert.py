"""GGUF files to model directories: `config.json`, tokenizer, safetensors, and a card that says from
which file they came.

Quantized tensors are dequantized to float32, which is exact. A file given as a target is converted
once, into the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor

from nlakit import __version__
from nlakit.config import write_text_atomic
from nlakit.errors import CheckpointError, InputError
from nlakit.models.configs import CONFIG_NAME
from nlakit.models.endings import GENERATION_NAME, KEY
from nlakit.models.gguf_model import GgufModel
from nlakit.models.gguf_tokenizer import endings_in, tokenizer_of
from nlakit.models.io import atomic_directory, save_tensors
from nlakit.models.weights import INDEX_NAME, WEIGHTS_NAME

SHARD_BYTES = 4 << 30
CACHE_VARIABLE = "NLAKIT_CACHE"
LAYOUT = 1
"""Raised when a later version converts otherwise, so that older conversions are made anew."""


def convert_gguf(path: str | Path, directory: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write the model of a GGUF file as a model directory; returns it.

    Args:
        directory: may not be there, or must be empty.
        dtype: of the weights; None: what holds them without loss.

    Raises:
        CheckpointError: a file that is none, or of a kind that is not read.
        InputError: the directory has files in it.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is there already. Give another name, or remove it.")
    model = GgufModel(path)
    tokenizer = tokenizer_of(model.facts, str(model.facts.get("general.architecture")))
    config, endings = model.config(), endings_in(model.facts)
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    with atomic_directory(directory) as temporary:
        _write_json(temporary / CONFIG_NAME, config)
        tokenizer.model_max_length = config["max_position_embeddings"]
        tokenizer.save_pretrained(str(temporary))
        if len(endings) > 1:
            _write_json(temporary / GENERATION_NAME, {KEY: endings})
        write_shards(temporary, model.tensors(), dtype)
        write_text_atomic(temporary / "README.md", _card(model, config["dtype"]))
    return directory


def converted(path: str | Path) -> Path:
    """The model directory of a GGUF file, made in the cache (`NLAKIT_CACHE`) where it is not there.

    Raises:
        CheckpointError: as `convert_gguf`.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file. Check the path.")
    found = path.stat()
    named = f"{LAYOUT}\n{path}\n{found.st_size}\n{found.st_mtime_ns}"
    key = hashlib.sha256(named.encode()).hexdigest()[:16]
    directory = cache_path() / "gguf" / f"{path.stem}-{key}"
    return directory if directory.is_dir() else convert_gguf(path, directory)


def cache_path() -> Path:
    """Where files are kept that can be recomputed."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("nlakit", appauthor=False)


def write_shards(
    directory: Path,
    tensors: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype | None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors as one file, or as shards of about `shard_bytes` with their index."""
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = 0
    for name, tensor in tensors:
        held[name] = tensor if dtype is None else tensor.to(dtype)
        total += held[name].nbytes
        if sum(each.nbytes for each in held.values()) >= shard_bytes:
            shards, held = _flushed(directory, shards, held), {}
    shards = _flushed(directory, shards, held)
    if len(shards) == 1:
        os.rename(directory / _part(0), directory / WEIGHTS_NAME)
        return
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for index, file in enumerate(files):
        os.rename(directory / _part(index), directory / file)
    where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    _write_json(directory / INDEX_NAME, index)


def _flushed(
    directory: Path, shards: list[list[str]], held: Mapping[str, Tensor]
) -> list[list[str]]:
    if not held:
        return shards
    save_tensors(directory / _part(len(shards)), held, None)
    return [*shards, sorted(held)]


def _part(index: int) -> str:
    return f"part-{index}.safetensors"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _card(model: GgufModel, dtype: str) -> str:
    """Where the weights came from, so that nobody takes them for the original."""
    facts = model.facts
    kinds = ", ".join(f"{count} {kind}" for kind, count in model.kinds.most_common())
    license_name = facts.get("general.license")
    head = ["---", f"license: {json.dumps(license_name)}", "---", ""] if license_name else []
    known = {
        "name": facts.get("general.name"),
        "organization": facts.get("general.organization"),
        "architecture": facts.get("general.architecture"),
        "license": license_name or "not stated in the file",
        "source": f"`{model.path.name}`, {model.path.stat().st_size:,} bytes",
        "SHA-256": _hash_of(model.path),
        "tensors": kinds,
        "written as": dtype,
    }
    rows = [f"- {name}: {value}" for name, value in known.items() if value]
    return "\n".join(
        [
            *head,
            f"# {facts.get('general.name') or model.path.stem}",
            "",
            f"Converted from GGUF by nlakit {__version__}. Quantized weights were dequantized: "
            "they are those of the GGUF file, not of the checkpoint that it was made from.",
            "",
            *rows,
            "",
        ]
    )


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
