"""dictionary_learning: `config.json` beside `ae.pt`, a pickle, which nlakit never opens.

Converted once by whoever trusts it, it is `ae.safetensors`, with the same names, and read here.
Its gated and JumpReLU classes scale latents by decoder norms, so those are read at unit norm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nlakit.errors import CheckpointError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import Inference, SaeConfig, residual_hook

from .files import assembled, read_json, read_tensors, wanted
from .scaling import unit_weights

PICKLE_NAME, CONVERTED_NAME = "ae.pt", "ae.safetensors"
CONVERSION = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file({k: v.contiguous() for k, v in torch.load('ae.pt', weights_only=True).items()}, "
    "'ae.safetensors')\""
)
Tensors = dict[str, Tensor]


def recognizes(directory: Path) -> bool:
    """Whether its weights are there, in either form."""
    return (directory / PICKLE_NAME).is_file() or (directory / CONVERTED_NAME).is_file()


def read(directory: Path, mean_norm: float | None = None) -> SparseAutoencoder:
    """An autoencoder whose weights were converted.

    Raises:
        CheckpointError: only the pickle is there, with the command that converts it; a class that
            is not known; a file that is missing or corrupt.
    """
    if not (directory / CONVERTED_NAME).is_file():
        raise CheckpointError(
            f"{directory / PICKLE_NAME} is a pickle, and opening one runs whatever it says. If you "
            f"trust it, convert it once, there, in an environment with torch:\n  {CONVERSION}"
        )
    path = directory / "config.json"
    trainer = wanted(read_json(path), "trainer", path)
    name = str(wanted(trainer, "dict_class", path))
    if name not in CLASSES:
        raise CheckpointError(f"{path}: dict_class {name!r}; known: {', '.join(CLASSES)}.")
    architecture, subtract, convert = CLASSES[name]
    tensors = read_tensors(directory / CONVERTED_NAME)
    try:
        weights = convert(tensors)
    except KeyError as error:
        raise CheckpointError(f"{directory / CONVERTED_NAME} has no {error} of {name}.") from error
    layer = trainer.get("layer")
    config = SaeConfig(
        architecture=architecture,
        d_in=weights["W_enc"].shape[0],
        d_sae=weights["W_enc"].shape[1],
        k=wanted(trainer, "k", path) if architecture == "topk" else None,
        subtract_b_dec=subtract,
        model=trainer.get("lm_name"),
        hook_name=None if layer is None else residual_hook(int(layer)),
        trained_as=name,
        metadata={"source": "dictionary_learning"},
    )
    made = assembled(config, weights, directory / CONVERTED_NAME)
    return unit_weights(made) if name in ("GatedAutoEncoder", "JumpReluAutoEncoder") else made


def _linear(tensors: Tensors, bias: str) -> Tensors:
    """`nn.Linear` weights, [out, in]."""
    return {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors[bias],
    }


def _gated(tensors: Tensors) -> Tensors:
    return {
        "W_enc": tensors["encoder.weight"].T,
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors["decoder_bias"],
        "b_gate": tensors["gate_bias"],
        "r_mag": tensors["r_mag"],
        "b_mag": tensors["mag_bias"],
    }


def _plain(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def _jump(tensors: Tensors) -> Tensors:
    return {**_plain(tensors), "threshold": tensors["threshold"]}


def _batch(weights: Tensors, tensors: Tensors) -> Tensors:
    threshold = float(tensors["threshold"])
    if threshold < 0:
        raise CheckpointError(
            f"The threshold of this BatchTopK autoencoder is {threshold:g}: training ended before "
            "it was ever set, so nobody can say which latents are active."
        )
    return {**weights, "threshold": torch.full_like(weights["b_enc"], threshold)}


CLASSES: dict[str, tuple[Inference, bool, Callable[[Tensors], Tensors]]] = {
    "AutoEncoder": ("standard", True, lambda t: _linear(t, "bias")),
    "AutoEncoderNew": ("standard", False, lambda t: _linear(t, "decoder.bias")),
    "GatedAutoEncoder": ("gated", True, _gated),
    "JumpReluAutoEncoder": ("jumprelu", False, _jump),
    "AutoEncoderTopK": ("topk", True, lambda t: _linear(t, "b_dec")),
    "BatchTopKSAE": ("jumprelu", True, lambda t: _batch(_linear(t, "b_dec"), t)),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, lambda t: _batch(_plain(t), t)),
}
"""Class, how it encodes, whether `b_dec` is taken off the input, and where its weights are."""
