"""Architectures of sparse autoencoders, one file each: how they are trained, and saved."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Architecture
from .batchtopk import BatchTopK, BatchTopKSettings
from .gated import Gated, GatedSettings
from .jumprelu import JumpRelu, JumpReluSettings
from .matryoshka import Matryoshka, MatryoshkaSettings
from .standard import Standard, StandardSettings
from .temporal import Temporal, TemporalSettings
from .topk import TopK, TopKSettings

SaeSettings = Annotated[
    StandardSettings
    | TopKSettings
    | BatchTopKSettings
    | JumpReluSettings
    | GatedSettings
    | MatryoshkaSettings
    | TemporalSettings,
    Field(discriminator="architecture"),
]


def made(settings: SaeSettings) -> Architecture:
    """The architecture of settings."""
    match settings:
        case StandardSettings():
            return Standard(settings)
        case TopKSettings():
            return TopK(settings)
        case BatchTopKSettings():
            return BatchTopK(settings)
        case JumpReluSettings():
            return JumpRelu(settings)
        case GatedSettings():
            return Gated(settings)
        case MatryoshkaSettings():
            return Matryoshka(settings)
        case TemporalSettings():
            return Temporal(settings)
