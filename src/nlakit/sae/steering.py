"""Steering by a latent: give it another value at one token, and read what the target writes then.

What is added at the site is `(value - found) · W_dec[latent]`, so the autoencoder's error and every
other latent stay as they are; a value of 0 ablates the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from nlakit.config import FrozenModel
from nlakit.errors import InputError
from nlakit.models.patch import continuations
from nlakit.models.target import Target
from nlakit.pair.steer import side_effect

from .autoencoder import SparseAutoencoder
from .measure import check_fits, check_latents

MOST_VALUE = 1e6


class SteeredByLatent(FrozenModel):
    """What another value of a latent did to a continuation."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_steered"] = "sae_steered"
    sae: str
    latent: int
    position: int
    found: float
    """The latent's value at the token."""
    value: float
    """The one that it was given."""
    before: str
    """The target's greedy continuation."""
    after: str
    changed: bool
    strength: float
    """Norm of what was added, as a share of the activation's."""
    kl_unrelated: float
    """Mean KL in nats at the next token of unrelated texts, steered as strongly."""


def steer_by_latent(
    sae: SparseAutoencoder,
    target: Target,
    ids: Sequence[int],
    latent: int,
    value: float,
    *,
    name: str,
    position: int = -1,
    max_new_tokens: int = 20,
) -> SteeredByLatent:
    """Continue `ids` greedily with one latent of one token at another value.

    Args:
        position: the token; negative ones count from the end.

    Raises:
        InputError: an autoencoder of another site, no such latent or position, or a value that is
            negative or not finite.
    """
    check_fits(sae, target)
    check_latents(sae, [latent])
    if not 0 <= value < MOST_VALUE:
        raise InputError(
            f"A latent's value is 0 or above, and below {MOST_VALUE:g}; found {value}."
        )
    if not -len(ids) <= position < len(ids):
        raise InputError(f"Position {position} was asked for; the text has {len(ids)} tokens.")
    place = position % len(ids)
    activation_1D = target.activations([list(ids)], [[place]])[0].to(sae.device)
    found = sae.encode(activation_1D)[0, latent].item()
    added_D = ((value - found) * sae.weights["W_dec"][latent]).float().cpu()
    added_2D = torch.stack([torch.zeros_like(added_D), added_D])
    plain, steered = continuations(target, [ids] * 2, added_2D, [place] * 2, max_new_tokens)
    strength = (added_D.norm() / activation_1D.norm().cpu()).item()
    return SteeredByLatent(
        sae=name,
        latent=latent,
        position=place,
        found=found,
        value=value,
        before=str(target.tokenizer.decode(plain)),
        after=str(target.tokenizer.decode(steered)),
        changed=plain != steered,
        strength=strength,
        kl_unrelated=side_effect(target, added_D, strength) if strength else 0.0,
    )
