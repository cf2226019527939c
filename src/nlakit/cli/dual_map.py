"""`nlakit dual-map`: two dictionaries of one site on one map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.config import write_text_atomic
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.dual_map import DualMap, plot
from nlakit.sae.dual_map import dual_map as make
from nlakit.sae.store import STORE_NAME, DashboardStore

from .saes import find_sae, load_sae


def dual_map(
    first: str,
    second: str,
    /,
    *,
    output: Annotated[Path, Parameter(negative=())],
    seed: int = 1,
) -> None:
    """Fit one UMAP to the decoder directions of two autoencoders, and find nearest neighbours.

    Latents that are never active on their dashboards' texts are left out.

    Parameters
    ----------
    first
        An autoencoder: a directory, or the name of one that was trained here.
    second
        Another one of the same site.
    output
        File for the map; its picture lies beside it. `nlakit serve --latent-map` shows the map.
    seed
        Of the map.
    """
    saes = (load_sae(first), load_sae(second))
    living = (alive(first, saes[0]), alive(second, saes[1]))
    found = make(saes, living, (first, second), seed)
    write_text_atomic(output, found.model_dump_json() + "\n")
    write_text_atomic(output.with_suffix(".svg"), plot(found))
    Console().print(summary(found))


def alive(name: str, autoencoder: SparseAutoencoder) -> list[int]:
    """Latents that are active on their dashboards' texts; all where there are no dashboards."""
    path = find_sae(name) / STORE_NAME
    if not path.exists():
        return list(range(autoencoder.config.d_sae))
    with DashboardStore(path) as store:
        return [each.latent for each in store if each.density > 0]


def summary(found: DualMap) -> Table:
    """Mean largest cosines, for a terminal."""
    table = Table(caption=found.note)
    for name in ("", "in the other", "within itself"):
        table.add_column(name, justify="right" if name else "left")
    for number, name in enumerate(found.names):
        cosines = (found.mean_across[number], found.mean_within[number])
        table.add_row(name, *(f"{cosine:.3f}" for cosine in cosines))
    return table
