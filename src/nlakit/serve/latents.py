"""A sparse autoencoder beside the NLA that is served: its latents, their dashboards, a dual map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.dual_map import DualMap
from nlakit.sae.store import DashboardStore

T = TypeVar("T")


@dataclass(frozen=True)
class ServedLatents:
    """What is served of an autoencoder.

    Attributes:
        dashboards: their store; None where none were built.
        map: this dictionary beside another one.
    """

    sae: SparseAutoencoder
    name: str
    dashboards: Path | None = None
    map: DualMap | None = None

    def stored(self, ask: Callable[[DashboardStore], T]) -> T:
        """What the store says. Raises `InputError` where there is none, or as `ask` does."""
        if self.dashboards is None:
            raise InputError("This autoencoder has no dashboards: nlakit dashboards build.")
        # SQLite's connections stay on their thread, and opening one takes a millisecond.
        with DashboardStore(self.dashboards) as store:
            return ask(store)

    def labels(self) -> dict[int, str]:
        """Names of latents; none where there are no dashboards."""
        return {} if self.dashboards is None else self.stored(DashboardStore.labels)
