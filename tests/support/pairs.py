"""Pairs made of whatever a test has: an engine, a target, a mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nlakit.card import NlaCard
from nlakit.engines.base import Engine
from nlakit.models.target import Target
from nlakit.pair.load import load_source
from nlakit.pair.pair import Pair
from nlakit.pair.source import find_pair


def make_pair(name: str, target: Target, engine: Engine | Any, mean_D: Tensor, **more: Any) -> Pair:
    """A pair that was not loaded from anywhere."""
    card = NlaCard(
        name=name,
        layer=target.site.layer,
        d_model=len(mean_D),
        variance=1.0,
        num_training_rows=1,
    )
    return Pair(engine, target, card, mean_D, **more)


def load_whole(path: str | Path | None = None) -> Pair:
    """A pair with all that evaluations compare it with."""
    return load_source(find_pair(path), comparisons=True)
