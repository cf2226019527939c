"""Llama Scope, first release: `hyperparams.json` and `checkpoints/final.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nlakit.errors import CheckpointError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig

from .files import assembled, not_an_autoencoder, read_json, read_tensors, wanted
from .scaling import without_scale

MODEL = "meta-llama/Llama-3.1-8B"
"""The release is of this one model, which its files do not name."""
CONFIG_NAME, WEIGHTS_NAME = "hyperparams.json", "checkpoints/final.safetensors"


def recognizes(directory: Path) -> bool:
    """Whether its two files are there."""
    return all((directory / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))


def read(directory: Path, mean_norm: float | None = None) -> SparseAutoencoder:
    """Weights of activations at mean norm √d, with s = √d / dataset_average_activation_norm.in, as
    weights of raw ones.

    The threshold is that of the authors' own inference form, whose latents are 1/s of these; it is
    multiplied by s, as SAELens does.

    Raises:
        CheckpointError: a file is missing or corrupt, not JumpReLU, or a transcoder.
    """
    path, weights_path = directory / CONFIG_NAME, directory / WEIGHTS_NAME
    raw = read_json(path)
    site = wanted(raw, "hook_point_in", path)
    if raw.get("hook_point_out", site) != site:
        raise not_an_autoencoder(path, f"transcoder from {site} to {raw['hook_point_out']}")
    _check(raw, path)
    tensors = read_tensors(weights_path)
    W_enc_DM = wanted(tensors, "encoder.weight", weights_path).T
    d_in, num_latents = W_enc_DM.shape
    scale = d_in**0.5 / float(raw["dataset_average_activation_norm"]["in"])
    threshold = float(wanted(raw, "jump_relu_threshold", path)) * scale
    weights = {
        "W_enc": W_enc_DM,
        "b_enc": wanted(tensors, "encoder.bias", weights_path),
        "W_dec": wanted(tensors, "decoder.weight", weights_path).T,
        "b_dec": tensors.get("decoder.bias", torch.zeros(d_in)),
        "threshold": torch.full((num_latents,), threshold),
    }
    config = SaeConfig(
        architecture="jumprelu",
        d_in=d_in,
        d_sae=num_latents,
        subtract_b_dec=bool(raw.get("apply_decoder_bias_to_pre_encoder", False)),
        model=MODEL,
        hook_name=site,
        metadata={"source": "llama_scope"},
    )
    return without_scale(assembled(config, weights, weights_path), scale)


def _check(raw: dict[str, Any], path: Path) -> None:
    if str(raw.get("act_fn", "jumprelu")).lower() != "jumprelu":
        raise CheckpointError(f"{path}: act_fn {raw['act_fn']!r}; nlakit reads jumprelu.")
    norms = raw.get("dataset_average_activation_norm")
    if not isinstance(norms, dict) or not norms.get("in"):
        raise CheckpointError(f"{path} has no dataset_average_activation_norm.in.")
