"""SAELens: `cfg.json`, `sae_weights.safetensors` and, where measured, `sparsity.safetensors`.

Version 6 keeps what is not needed to run it under `metadata`; older configs are flat and name
things otherwise. Its training checkpoints (`batchtopk`, `matryoshka_batchtopk`) are read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nlakit.config import write_text_atomic
from nlakit.errors import CheckpointError, InputError
from nlakit.models.io import save_tensors
from nlakit.sae.autoencoder import SparseAutoencoder, wanted_shapes
from nlakit.sae.config import SaeConfig

from .files import DTYPES, assembled, not_an_autoencoder, read_json, read_tensors, wanted
from .scaling import unit_weights, without_scale

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"
WRITTEN_VERSION = "6.54.12"
"""The version whose files we write; one is needed, since a config without it is taken for an old
one."""

FLAT_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
TRAINING = {"batchtopk": "batchtopk", "matryoshka_batchtopk": "matryoshka"}
"""SAELens's names of what it saves as JumpReLU in the end, and ours."""
SITE_KEYS = ("model_name", "hook_name")


def recognizes(directory: Path) -> bool:
    """Whether the weights' file is there."""
    return (directory / WEIGHTS_NAME).is_file()


def read(directory: Path, mean_norm: float | None = None) -> SparseAutoencoder:
    """An autoencoder of SAELens.

    Args:
        mean_norm: mean norm of activations at its site. Needed where the config says
            `expected_average_only_in`: such weights expect activations at mean norm √d_in.

    Raises:
        CheckpointError: a file is missing or corrupt, or an architecture that is not run here.
        InputError: a mean norm is needed.
    """
    path = directory / CONFIG_NAME
    raw = upgraded(read_json(path))
    tensors = read_tensors(directory / WEIGHTS_NAME)
    architecture = str(wanted(raw, "architecture", path))
    if "transcoder" in architecture:
        raise not_an_autoencoder(path, architecture)
    tensors = _with_scaling_factor(tensors, raw)
    if architecture in TRAINING:
        tensors["threshold"] = _training_threshold(tensors, path)
    config = _config(raw, architecture, path)
    kept = {name: t for name, t in tensors.items() if name in wanted_shapes(config)}
    _refuse_more(tensors, kept, path)
    made = assembled(config, kept, path)
    if raw.get("rescale_acts_by_decoder_norm"):
        made = unit_weights(made)
    if raw.get("normalize_activations") == "expected_average_only_in":
        made = without_scale(made, _given_scale(config.d_in, mean_norm, path))
    return made


def write(sae: SparseAutoencoder, directory: Path) -> None:
    """Write files that SAELens 6 and nlakit read; weights in `sae.config.dtype`."""
    directory.mkdir(parents=True, exist_ok=True)
    # It stores a mask of thresholds, but no scalar one.
    weights = {name: tensor.cpu() for name, tensor in sae.weights.items()}
    save_tensors(directory / WEIGHTS_NAME, weights, DTYPES[sae.config.dtype])
    text = json.dumps(written_config(sae.config), indent=2) + "\n"
    write_text_atomic(directory / CONFIG_NAME, text)


def written_config(config: SaeConfig) -> dict[str, Any]:
    """The content of `cfg.json`."""
    metadata = {"sae_lens_version": WRITTEN_VERSION, **config.metadata}
    metadata |= {"model_name": config.model, "hook_name": config.hook_name}
    if config.trained_as is not None:
        metadata["trained_as"] = config.trained_as
    raw = {
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": config.dtype,
        "device": "cpu",
        "apply_b_dec_to_input": config.subtract_b_dec,
        "normalize_activations": config.normalization,
        "reshape_activations": config.reshape,
        "metadata": {key: value for key, value in metadata.items() if value is not None},
    }
    if config.k is not None:
        raw |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    return raw


def upgraded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any version in the form of version 6."""
    metadata = dict(raw.get("metadata") or {})
    version = str(raw.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 6:
        return dict(raw)
    flat = {FLAT_NAMES.get(key, key): value for key, value in raw.items()}
    flat.setdefault("architecture", "standard")
    flat.setdefault("apply_b_dec_to_input", True)
    arguments = flat.get("activation_fn_kwargs") or {}
    if flat.get("activation_fn") == "topk" and arguments.get("k") is not None:
        flat |= {"architecture": "topk", "k": arguments["k"]}
    normalize = flat.get("normalize_activations")
    if isinstance(normalize, bool) or normalize is None:
        flat["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    used = {"architecture", "d_in", "d_sae", "dtype", "k", "apply_b_dec_to_input"}
    used |= {"normalize_activations", "activation_fn", "finetuning_scaling_factor"}
    flat["metadata"] = {key: value for key, value in flat.items() if key not in used}
    return flat


def _config(raw: Mapping[str, Any], architecture: str, path: Path) -> SaeConfig:
    metadata = dict(raw.get("metadata") or {})
    normalize = raw.get("normalize_activations") or "none"
    if normalize == "covariance_whitening":
        raise CheckpointError(
            f"{path}: its activations are whitened, by a matrix that the file does not hold. Fold "
            "it in with SAELens (fold_activation_whitening) and save it again."
        )
    if raw.get("activation_fn", "relu") not in ("relu", "topk"):
        raise CheckpointError(f"{path}: activation_fn {raw['activation_fn']!r} is not run here.")
    known = ("standard", "topk", "jumprelu", "gated", *TRAINING)
    if architecture not in known:
        raise CheckpointError(
            f"{path}: architecture {architecture!r}; nlakit reads {', '.join(known)}."
        )
    trained_as = TRAINING.get(architecture) or metadata.pop("trained_as", None)
    return SaeConfig(
        architecture="jumprelu" if architecture in TRAINING else architecture,  # type: ignore[arg-type]
        d_in=wanted(raw, "d_in", path),
        d_sae=wanted(raw, "d_sae", path),
        k=wanted(raw, "k", path) if architecture == "topk" else None,
        subtract_b_dec=raw.get("apply_b_dec_to_input", True),
        normalization="none" if normalize == "expected_average_only_in" else normalize,
        reshape=_reshape(raw, metadata),
        model=metadata.get("model_name"),
        hook_name=metadata.get("hook_name"),
        trained_as=trained_as,
        metadata={key: value for key, value in metadata.items() if key not in SITE_KEYS},
    )


def _reshape(raw: Mapping[str, Any], metadata: dict[str, Any]) -> Literal["none", "hook_z"]:
    """Of old configs, the hook's name says it."""
    said = raw.get("reshape_activations") or metadata.pop("reshape_activations", None)
    named = "hook_z" in str(metadata.get("hook_name")) and said is None
    return "hook_z" if said == "hook_z" or named else "none"


def _with_scaling_factor(tensors: dict[str, Tensor], raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """Old files may hold a factor by which each latent is multiplied before it is decoded."""
    tensors = dict(tensors)
    for name in ("finetuning_scaling_factor", "scaling_factor"):
        factor_M = tensors.pop(name, None)
        if factor_M is not None and raw.get("finetuning_scaling_factor", True):
            tensors["W_dec"] = tensors["W_dec"] * factor_M[:, None]
    return tensors


def _training_threshold(tensors: dict[str, Tensor], path: Path) -> Tensor:
    threshold = tensors.pop("topk_threshold", None)
    if threshold is None:
        raise CheckpointError(f"{path}: a training checkpoint without `topk_threshold`.")
    return torch.full_like(tensors["b_enc"], float(threshold))


def _refuse_more(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor], path: Path) -> None:
    more = sorted(tensors.keys() - kept.keys())
    if more:
        raise CheckpointError(f"{path}: the weights hold {', '.join(more)}, which would be lost.")


def _given_scale(d_in: int, mean_norm: float | None, path: Path) -> float:
    if mean_norm is None:
        raise InputError(
            f"{path}: these weights expect activations at mean norm √{d_in}, and the file does not "
            "say what the mean norm at its site is. Measure it and give load(…, mean_norm=…)."
        )
    return d_in**0.5 / mean_norm
