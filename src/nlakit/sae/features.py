"""Which latents are active at each token of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.models.target import Encoded, Target

from .autoencoder import SparseAutoencoder
from .measure import check_fits, check_latents


class ActiveLatent(FrozenModel):
    """A latent at a token."""

    index: int
    activation: float
    label: str | None = None
    """What somebody says it means (`dashboards`); None: nobody has."""


class TokenFeatures(FrozenModel):
    """One token, strongest latents first."""

    position: int
    token: str
    l0: int
    """Active latents, whether shown or not."""
    error: float
    """‖x - x̂‖ / ‖x‖ of its activation."""
    features: tuple[ActiveLatent, ...]


class TextFeatures(FrozenModel):
    """A text under an autoencoder."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_features"] = "sae_features"
    sae: str
    model: str
    layer: int
    text: str
    tokens: tuple[TokenFeatures, ...]


def features_of(
    sae: SparseAutoencoder,
    target: Target,
    encoded: Encoded,
    *,
    name: str,
    positions: Sequence[int] | None = None,
    top: int = 10,
    latents: Sequence[int] = (),
    labels: Mapping[int, str] | None = None,
) -> TextFeatures:
    """The latents of a text.

    Args:
        positions: tokens to read; by default all that stand for characters.
        top: latents per token at most.
        latents: only these; by default any.

    Raises:
        InputError: an autoencoder of another site, a position outside the text, no such latent.
    """
    check_fits(sae, target)
    check_latents(sae, latents)
    places = _readable(encoded) if positions is None else list(positions)
    x_PD = target.activations([encoded.ids], [places])[0].to(sae.device)
    latents_PM = sae.encode(x_PD)
    error_P = (x_PD - sae.reconstruct(x_PD)).norm(dim=-1) / x_PD.norm(dim=-1).clamp_min(1e-8)
    rows = zip(places, latents_PM.cpu(), error_P.tolist(), strict=True)
    return TextFeatures(
        sae=name,
        model=sae.config.model or "",
        layer=target.site.layer,
        text=encoded.text,
        tokens=tuple(
            TokenFeatures(
                position=position,
                token=encoded.tokens[position],
                l0=int((row_M > 0).sum()),
                error=error,
                features=_strongest(row_M, top, latents, labels or {}),
            )
            for position, row_M, error in rows
        ),
    )


def _strongest(
    row_M: Tensor, top: int, latents: Sequence[int], labels: Mapping[int, str]
) -> tuple[ActiveLatent, ...]:
    if latents:
        kept_M = torch.zeros_like(row_M)
        kept_M[list(latents)] = row_M[list(latents)]
        row_M = kept_M
    found = row_M.topk(min(top, len(row_M)))
    return tuple(
        ActiveLatent(index=index, activation=value, label=labels.get(index))
        for value, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        if value > 0
    )


def _readable(encoded: Encoded) -> list[int]:
    return [place for place, (start, end) in enumerate(encoded.offsets) if end > start]
