"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named after the hookpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nlakit.config import write_text_atomic
from nlakit.errors import CheckpointError, InputError
from nlakit.models.io import save_tensors
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig, residual_hook

from .files import DTYPES, assembled, not_an_autoencoder, read_json, read_tensors, wanted

CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae.safetensors"
BLOCK = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)")
"""A hookpoint that names a block, and so its output."""


def recognizes(directory: Path) -> bool:
    """Whether the weights' file is there."""
    return (directory / WEIGHTS_NAME).is_file()


def read(directory: Path, mean_norm: float | None = None) -> SparseAutoencoder:
    """Per-token top-k of ReLU; `b_dec` is taken off the input. `W_dec` is [latents, d_in], the
    encoder's weight too.

    Raises:
        CheckpointError: a file is missing or corrupt, a transcoder, or not top-k.
    """
    path = directory / CONFIG_NAME
    raw, tensors = read_json(path), read_tensors(directory / WEIGHTS_NAME)
    if raw.get("transcode") or raw.get("skip_connection"):
        raise not_an_autoencoder(path, "transcoder")
    if raw.get("activation", "topk") != "topk":
        raise CheckpointError(f"{path}: activation {raw['activation']!r}; nlakit reads topk.")
    weights = {
        "W_enc": wanted(tensors, "encoder.weight", directory / WEIGHTS_NAME).T,
        "b_enc": wanted(tensors, "encoder.bias", directory / WEIGHTS_NAME),
        "W_dec": wanted(tensors, "W_dec", directory / WEIGHTS_NAME),
        "b_dec": wanted(tensors, "b_dec", directory / WEIGHTS_NAME),
    }
    d_in, num_latents = weights["W_enc"].shape
    block = BLOCK.fullmatch(directory.name)
    config = SaeConfig(
        architecture="topk",
        d_in=d_in,
        d_sae=num_latents,
        k=wanted(raw, "k", path),
        hook_name=None if block is None else residual_hook(int(block[1])),
        metadata={"source": "sparsify", "hookpoint": directory.name},
    )
    return assembled(config, weights, directory / WEIGHTS_NAME)


def write(sae: SparseAutoencoder, directory: Path) -> None:
    """Write what sparsify's `SparseCoder.load_from_disk` reads.

    Raises:
        InputError: not a top-k autoencoder with its conventions.
    """
    config = sae.config
    if config.k is None or not config.subtract_b_dec or config.normalization != "none":
        raise InputError(
            f"sparsify holds top-k autoencoders that take b_dec off raw activations; this one is "
            f"{config.architecture}, subtract_b_dec={config.subtract_b_dec}, "
            f"normalization={config.normalization}. Write it as saelens."
        )
    tensors = {
        "encoder.weight": sae.weights["W_enc"].T.contiguous(),
        "encoder.bias": sae.weights["b_enc"],
        "W_dec": sae.weights["W_dec"],
        "b_dec": sae.weights["b_dec"],
    }
    raw = {
        "activation": "topk",
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "normalize_decoder": True,
        "num_latents": config.d_sae,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": config.d_in,
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(directory / WEIGHTS_NAME, tensors, DTYPES[config.dtype])
    write_text_atomic(directory / CONFIG_NAME, json.dumps(raw, indent=2) + "\n")
