"""Rescalings that keep an autoencoder's output, for conventions that differ between libraries."""

from __future__ import annotations

from dataclasses import replace

from nlakit.core.saes import affine as maps
from nlakit.core.saes.affine import Affine
from nlakit.sae.autoencoder import SparseAutoencoder

PER_LATENT = ("b_enc", "threshold", "b_gate", "b_mag")
"""Weights that grow with a latent when its direction is brought to norm 1; the gain of a gated one
(`r_mag`) does not."""


def unit_weights(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The same output from unit directions: latents become ‖W_dec,i‖ times what they were.

    Of `topk` it is the same autoencoder only where the choice was made by those products already.
    """
    norms_M = maps.decoder_norms(sae.weights["W_dec"])
    weights = {name: t * norms_M if name in PER_LATENT else t for name, t in sae.weights.items()}
    weights["W_enc"] = weights["W_enc"] * norms_M
    weights["W_dec"] = weights["W_dec"] / norms_M[:, None]
    return replace(sae, weights=weights)


def without_scale(sae: SparseAutoencoder, scale: float) -> SparseAutoencoder:
    """An autoencoder of raw activations from one of `scale` times those; latents stay."""
    zero_M = sae.weights["W_dec"].new_zeros(sae.config.d_sae)
    weights = sae.weights
    raw = maps.without_input_scale(
        Affine(weights["W_enc"], zero_M, weights["W_dec"], weights["b_dec"]), scale
    )
    moved = {"W_enc": raw.W_enc_DM, "W_dec": raw.W_dec_MD, "b_dec": raw.b_dec_D}
    return replace(sae, weights={**weights, **moved})
