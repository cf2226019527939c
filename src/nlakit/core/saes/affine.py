"""The two affine maps of a sparse autoencoder, and the rescalings that keep its output."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, not to the variance: SAELens's `layer_norm`."""
SMALLEST_NORM = 1e-8


class Affine(NamedTuple):
    """Encoder and decoder of one autoencoder.

    Attributes:
        b_enc_M: zeros where an architecture has no encoder bias of its own (gated).
    """

    W_enc_DM: Float[Tensor, "D M"]
    b_enc_M: Float[Tensor, " M"]
    W_dec_MD: Float[Tensor, "M D"]
    b_dec_D: Float[Tensor, " D"]


class Normalized(NamedTuple):
    """Activations as an encoder takes them, and what undoes it: `x = mean + scale * inner`."""

    inner_ND: Float[Tensor, "*N D"]
    mean_N1: Float[Tensor, "*N 1"]
    scale_N1: Float[Tensor, "*N 1"]


def pre_activations(
    x_ND: Float[Tensor, "*N D"], affine: Affine, *, subtract_b_dec: bool
) -> Float[Tensor, "*N M"]:
    """What enters the activation function.

    Args:
        subtract_b_dec: whether the decoder's bias is taken off the input first. Both conventions
            are in use, and no file is readable without knowing which.
    """
    return projected(x_ND, affine, subtract_b_dec=subtract_b_dec) + affine.b_enc_M


def projected(
    x_ND: Float[Tensor, "*N D"], affine: Affine, *, subtract_b_dec: bool
) -> Float[Tensor, "*N M"]:
    """`pre_activations` without the encoder's bias."""
    inner_ND = x_ND - affine.b_dec_D if subtract_b_dec else x_ND
    return inner_ND @ affine.W_enc_DM


def decode(latents_NM: Float[Tensor, "*N M"], affine: Affine) -> Float[Tensor, "*N D"]:
    """What the latents say the activation was."""
    return latents_NM @ affine.W_dec_MD + affine.b_dec_D


def decoder_norms(W_dec_MD: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
    """Norm of each latent's direction, never 0."""
    return W_dec_MD.norm(dim=-1).clamp_min(SMALLEST_NORM)


def with_unit_directions(affine: Affine) -> tuple[Affine, Float[Tensor, " M"]]:
    """The same autoencoder with unit decoder rows, and the norms n that were moved.

    Latents become n times what they were: W_dec / n, W_enc · n, b_enc · n. A threshold has to be
    multiplied by n too. Per-token top-k afterwards chooses by n times the old latent, which is
    another choice unless the norms are equal.
    """
    norms_M = decoder_norms(affine.W_dec_MD)
    unit = Affine(
        affine.W_enc_DM * norms_M,
        affine.b_enc_M * norms_M,
        affine.W_dec_MD / norms_M[:, None],
        affine.b_dec_D,
    )
    return unit, norms_M


def without_input_scale(affine: Affine, scale: float) -> Affine:
    """An autoencoder of raw activations x, from one of `scale * x`.

    Latents stay as they are: W_enc · s, W_dec / s, b_dec / s; b_enc is unchanged.
    """
    return Affine(
        affine.W_enc_DM * scale,
        affine.b_enc_M,
        affine.W_dec_MD / scale,
        affine.b_dec_D / scale,
    )


def layer_normalized(x_ND: Float[Tensor, "*N D"]) -> Normalized:
    """Each row less its mean, over its (unbiased) standard deviation.

    SAELens undoes it by the standard deviation alone, so x comes back but for one part in 10⁵.
    """
    mean_N1 = x_ND.mean(dim=-1, keepdim=True)
    scale_N1 = x_ND.std(dim=-1, keepdim=True)
    return Normalized((x_ND - mean_N1) / (scale_N1 + LAYER_NORM_EPSILON), mean_N1, scale_N1)


def norm_rescaled(x_ND: Float[Tensor, "*N D"]) -> Normalized:
    """Each row at norm √D."""
    norm_N1 = x_ND.norm(dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
    scale_N1 = norm_N1 / x_ND.shape[-1] ** 0.5
    return Normalized(x_ND / scale_N1, torch.zeros_like(scale_N1), scale_N1)


def not_normalized(x_ND: Float[Tensor, "*N D"]) -> Normalized:
    """The rows as they are."""
    one_N1 = torch.ones_like(x_ND[..., :1])
    return Normalized(x_ND, torch.zeros_like(one_N1), one_N1)
