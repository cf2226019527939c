"""Gemma Scope. 1: `params.npz` and no config, so that layer and site are read from the folder's
name. 2: `config.json` and `params.safetensors`. Both are JumpReLU and take no bias off the input.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlakit.errors import CheckpointError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig, residual_hook

from .files import assembled, not_an_autoencoder, read_json, read_tensors, wanted

FIRST_NAME, SECOND_NAME = "params.npz", "params.safetensors"
LAYER = re.compile(r"layer_(\d+)")
HF_BLOCK = re.compile(r"model\.layers\.(\d+)\.output")
RELEASE = re.compile(r"gemma-scope-(\w+?)-(pt|it)-(\w+)")


def recognizes(directory: Path) -> bool:
    """Whether either version's weights are there."""
    return (directory / FIRST_NAME).is_file() or (directory / SECOND_NAME).is_file()


def read(directory: Path, mean_norm: float | None = None) -> SparseAutoencoder:
    """An autoencoder of either version.

    Raises:
        CheckpointError: a file is missing or corrupt, or it is a transcoder.
    """
    if (directory / SECOND_NAME).is_file():
        return _second(directory)
    return _first(directory)


def _first(directory: Path) -> SparseAutoencoder:
    path = directory / FIRST_NAME
    tensors = _read_npz(path)
    factor_M = tensors.pop("scaling_factor", None)
    if factor_M is not None:
        tensors["W_dec"] = tensors["W_dec"] * factor_M[:, None]
    width, num_latents = wanted(tensors, "W_enc", path).shape
    if any(part.startswith("embedding") for part in directory.parts[-3:]):
        # Trained on embeddings before Gemma multiplies them by √d.
        tensors["W_enc"] = tensors["W_enc"] / width**0.5
        tensors["W_dec"] = tensors["W_dec"] * width**0.5
    config = SaeConfig(
        architecture="jumprelu",
        d_in=width,
        d_sae=num_latents,
        subtract_b_dec=False,
        model=_model(directory),
        hook_name=_hook(directory),
        metadata={"source": "gemma_scope"},
    )
    return assembled(config, tensors, path)


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays by SAELens's names (`w_enc` is spelt both ways). Pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: torch.from_numpy(np.asarray(data[name])) for name in data.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy it again.") from error
    return {("W_" + n[2:] if n.startswith("w_") else n): t for n, t in arrays.items()}


def _model(directory: Path) -> str | None:
    found = RELEASE.search(str(directory))
    if found is None:
        return None
    return f"google/gemma-2-{found[1]}" + ("-it" if found[2] == "it" else "")


def _hook(directory: Path) -> str | None:
    """The site, where it is the residual stream."""
    layer, release = LAYER.search(str(directory)), RELEASE.search(str(directory))
    is_residual = release is None or release[3] == "res"
    return residual_hook(int(layer[1])) if layer is not None and is_residual else None


def _second(directory: Path) -> SparseAutoencoder:
    path = directory / "config.json"
    raw = read_json(path)
    if raw.get("architecture") != "jump_relu":
        raise CheckpointError(f"{path}: architecture {raw.get('architecture')!r}, not jump_relu.")
    hook_in, hook_out = raw.get("hf_hook_point_in"), raw.get("hf_hook_point_out")
    tensors = {
        "W_" + name[2:] if name.startswith("w_") else name: tensor
        for name, tensor in read_tensors(directory / SECOND_NAME).items()
    }
    if hook_out not in (None, hook_in) or "affine_skip_connection" in tensors:
        raise not_an_autoencoder(path, f"transcoder from {hook_in} to {hook_out}")
    width, num_latents = wanted(tensors, "W_enc", directory / SECOND_NAME).shape
    block = HF_BLOCK.fullmatch(str(hook_in))
    config = SaeConfig(
        architecture="jumprelu",
        d_in=width,
        d_sae=num_latents,
        subtract_b_dec=False,
        model=_named(raw),
        hook_name=None if block is None else residual_hook(int(block[1])),
        metadata={"source": "gemma_scope_2", "hf_hook_name": hook_in},
    )
    return assembled(config, tensors, directory / SECOND_NAME)


def _named(raw: dict[str, Any]) -> str | None:
    name = raw.get("model_name")
    return None if name is None else str(name)
