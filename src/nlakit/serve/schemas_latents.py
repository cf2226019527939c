"""Requests and answers about the latents of a sparse autoencoder, and about lenses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nlakit.sae.store import Found

from .schemas import PromptRequest, WireModel
from .settings import LIMITS

MOST_LATENTS = 64
Latent = Annotated[int, Field(ge=0)]


class Latents(WireModel):
    """The autoencoder that is served beside the NLA."""

    name: str
    architecture: str
    d_sae: int
    layer_index: int
    has_dashboards: bool
    has_map: bool


class FeaturesRequest(PromptRequest):
    """Latents at the tokens of a text."""

    positions: Annotated[list[int], Field(max_length=LIMITS.max_positions_per_request)] | None = (
        None
    )
    """None: every token that stands for characters."""
    latents: Annotated[list[Latent], Field(max_length=MOST_LATENTS)] = []
    """Only these; by default any."""
    top: Annotated[int, Field(ge=1, le=MOST_LATENTS)] = 10


class WitnessRequest(PromptRequest):
    """An explanation held against the latents of its token."""

    position: int = -1
    explanation: Annotated[str, Field(min_length=1, max_length=LIMITS.max_description_chars)]
    residual: bool = False
    """Let the NLA read what the autoencoder leaves out, too: no activation looks like that."""


class SteerLatentRequest(PromptRequest):
    """Another value of a latent at one token."""

    position: int = -1
    latent: Latent
    value: Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]
    completion_tokens: Annotated[int, Field(ge=1, le=64)] = 20


class FoundLatents(WireModel):
    """Latents whose label, promoted tokens or examples have the words."""

    found: list[Found]


class LensRequest(PromptRequest):
    """What each block's residual stream would say next at a token."""

    position: int = -1
    lens: Literal["logit", "jacobian"] = "logit"
