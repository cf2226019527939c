"""A sparse autoencoder ready to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.core.saes import affine as maps
from nlakit.core.saes.affine import Affine, Normalized
from nlakit.core.saes.sparsity import gated, jump_relu, top_k
from nlakit.errors import CheckpointError, InputError

from .config import Normalization, SaeConfig

NORMALIZERS: dict[Normalization, Callable[[Tensor], Normalized]] = {
    "none": maps.not_normalized,
    "layer_norm": maps.layer_normalized,
    "constant_norm_rescale": maps.norm_rescaled,
}
BIASES = {"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "threshold")}
"""Weights of one number a latent, by architecture; the others have `b_enc` alone."""


@dataclass(frozen=True)
class SparseAutoencoder:
    """Encodes activations in few of many latents, and decodes them.

    Attributes:
        weights: `W_enc` [d_in, d_sae], `W_dec` [d_sae, d_in], `b_dec` [d_in] and per latent the
            biases of its architecture; SAELens's names.
    """

    config: SaeConfig
    weights: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        _check_shapes(self.config, self.weights)

    @property
    def architecture(self) -> str:
        """How it encodes: standard, topk, jumprelu or gated."""
        return self.config.architecture

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.weights["W_dec"].device

    @property
    def affine(self) -> Affine:
        """Encoder and decoder; of a gated one the encoder's bias is the gate's."""
        bias_M = self.weights["b_gate" if self.architecture == "gated" else "b_enc"]
        return Affine(self.weights["W_enc"], bias_M, self.weights["W_dec"], self.weights["b_dec"])

    @property
    def directions(self) -> Float[Tensor, "M D"]:
        """Unit decoder row of each latent."""
        return self.weights["W_dec"] / maps.decoder_norms(self.weights["W_dec"])[:, None]

    def encode(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N M"]:
        """Latents of raw activations, 0 where a latent is not active.

        Raises:
            InputError: activations of another width.
        """
        return self._encode(self._normalized(x).inner_ND)

    def decode(self, latents: Float[Tensor, "*N M"]) -> Float[Tensor, "*N D"]:
        """The activations that latents stand for.

        Raises:
            InputError: latents of another width; or it normalizes each activation by itself, so
                that latents do not say its norm.
        """
        if self.config.normalization != "none":
            raise InputError(
                f"This autoencoder scales each activation by itself ({self.config.normalization}), "
                "so latents alone do not say what it was. Use reconstruct(x), which undoes that."
            )
        return self._decode(latents)

    def reconstruct(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """What its latents say of raw activations. Raises `InputError` as `encode`."""
        normalized = self._normalized(x)
        inner_ND = self._decode(self._encode(normalized.inner_ND))
        return inner_ND * normalized.scale_N1 + normalized.mean_N1

    def pre_activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N M"]:
        """What decides which latents are active. Raises `InputError` as `encode`."""
        inner_ND = self._normalized(x).inner_ND
        subtract = self.config.subtract_b_dec
        return maps.pre_activations(inner_ND, self.affine, subtract_b_dec=subtract)

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> SparseAutoencoder:
        """A copy elsewhere, or in another precision."""
        moved = {name: t.to(device=device, dtype=dtype) for name, t in self.weights.items()}
        return replace(self, weights=moved)

    def save(self, directory: str | Path, format: str = "saelens") -> Path:
        """Write it for nlakit and for others (`sae.formats`); returns the directory.

        Raises:
            InputError: there is no such format, or it cannot say what this autoencoder is.
        """
        from .formats import write

        return write(self, Path(directory), format)

    def _normalized(self, x: Tensor) -> Normalized:
        if x.shape[-1] != self.config.d_in:
            raise InputError(
                f"This autoencoder reads activations of width {self.config.d_in}; found "
                f"{x.shape[-1]}. Is it of another model or site?"
            )
        return NORMALIZERS[self.config.normalization](x.to(self.weights["W_enc"].dtype))

    def _encode(self, inner_ND: Tensor) -> Tensor:
        config, weights = self.config, self.weights
        parts = {"affine": self.affine, "subtract_b_dec": config.subtract_b_dec}
        if config.architecture == "gated":
            projected_NM = maps.projected(inner_ND, **parts)
            return gated(projected_NM, weights["b_gate"], weights["r_mag"], weights["b_mag"])
        pre_NM = maps.pre_activations(inner_ND, **parts)
        if config.architecture == "jumprelu":
            return jump_relu(pre_NM, weights["threshold"])
        return pre_NM.relu() if config.k is None else top_k(pre_NM, config.k)

    def _decode(self, latents: Tensor) -> Tensor:
        if latents.shape[-1] != self.config.d_sae:
            raise InputError(
                f"This autoencoder has {self.config.d_sae} latents; found {latents.shape[-1]}."
            )
        return maps.decode(latents.to(self.weights["W_dec"].dtype), self.affine)


def wanted_shapes(config: SaeConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of an architecture by SAELens's names, and their shapes."""
    biases = BIASES.get(config.architecture, ("b_enc",))
    return {
        "W_enc": (config.d_in, config.d_sae),
        "W_dec": (config.d_sae, config.d_in),
        "b_dec": (config.d_in,),
        **{name: (config.d_sae,) for name in biases},
    }


def _check_shapes(config: SaeConfig, weights: Mapping[str, Tensor]) -> None:
    wanted = wanted_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != wanted:
        names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        told = "; ".join(f"{n}: expected {wanted.get(n)}, found {found.get(n)}" for n in names)
        raise CheckpointError(f"Weights of a {config.architecture} autoencoder do not fit: {told}.")
