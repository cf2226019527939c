"""Two dictionaries of one site side by side: nearest neighbours, and a map that both share.

As Braun et al. 2024 do it: the unit decoder directions of both are put together and one UMAP is
fitted to all. UMAP is no metric: how far two clusters lie apart means nothing, nor how dense one
is. Nearest neighbours are by cosine, in the full space, and do mean something.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.metrics import max_cosines
from nlakit.errors import CheckpointError, InputError, MissingExtraError
from nlakit.evals.bootstrap import Interval, ratio_interval

from .autoencoder import SparseAutoencoder

NUM_BARS = 40
COLORS = ("#2563a8", "#c2410c")


class MapPoint(FrozenModel):
    """One latent on the map."""

    dictionary: Literal[0, 1]
    latent: int
    x: float
    y: float
    nearest: int
    """Latent of the other dictionary whose direction is closest."""
    cosine: float


class DualMap(FrozenModel):
    """Two dictionaries."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_dual_map"] = "sae_dual_map"
    names: tuple[str, str]
    seed: int
    across: tuple[tuple[int, ...], tuple[int, ...]]
    """Latents of each by their largest cosine with the other dictionary, in bars from 0 to 1."""
    within: tuple[tuple[int, ...], tuple[int, ...]]
    """The same with the other latents of their own."""
    mean_across: tuple[float, float]
    """With 95 % intervals, by latent."""
    mean_across_intervals: tuple[Interval, Interval]
    mean_within: tuple[float, float]
    mean_within_intervals: tuple[Interval, Interval]
    points: tuple[MapPoint, ...]
    note: str = "UMAP is no metric: distances between clusters, and their densities, mean nothing."


def dual_map(
    saes: tuple[SparseAutoencoder, SparseAutoencoder],
    alive: tuple[Sequence[int], Sequence[int]],
    names: tuple[str, str],
    seed: int = 1,
) -> DualMap:
    """Fit one map to the directions of two dictionaries' living latents.

    Raises:
        InputError: dictionaries of activations of different widths.
        MissingExtraError: umap-learn is not installed.
    """
    widths = [each.config.d_in for each in saes]
    if widths[0] != widths[1]:
        raise InputError(f"The dictionaries are of widths {widths[0]} and {widths[1]}.")
    kept = [sae.directions.cpu()[list(chosen)] for sae, chosen in zip(saes, alive, strict=True)]
    neighbours = (max_cosines(kept[0], kept[1]), max_cosines(kept[1], kept[0]))
    inside = [max_cosines(each, each, same=True)[0] for each in kept]
    places_N2 = _fit(torch.cat(kept), seed)
    points = []
    for number, (cosine_M, index_M) in enumerate(neighbours):
        start = 0 if number == 0 else len(kept[0])
        other = alive[1 - number]
        for row, latent in enumerate(alive[number]):
            x, y = places_N2[start + row].tolist()
            points.append(
                MapPoint(
                    dictionary=1 if number else 0,
                    latent=latent,
                    x=x,
                    y=y,
                    nearest=other[int(index_M[row])],
                    cosine=cosine_M[row].item(),
                )
            )
    across = (neighbours[0][0], neighbours[1][0])
    return DualMap(
        names=names,
        seed=seed,
        across=(_bars(across[0]), _bars(across[1])),
        within=(_bars(inside[0]), _bars(inside[1])),
        mean_across=(across[0].mean().item(), across[1].mean().item()),
        mean_across_intervals=(_interval(across[0]), _interval(across[1])),
        mean_within=(inside[0].mean().item(), inside[1].mean().item()),
        mean_within_intervals=(_interval(inside[0]), _interval(inside[1])),
        points=tuple(points),
    )


def _fit(directions_ND: Float[Tensor, "N D"], seed: int) -> Tensor:
    try:
        # By its name: it is an extra that a type checker may not find.
        umap: Any = importlib.import_module("umap")
    except ImportError as error:
        raise MissingExtraError("umap-learn", "umap") from error
    # A seed makes it run on one thread, and the same every time.
    fitted = umap.UMAP(random_state=seed, n_jobs=1).fit_transform(directions_ND.numpy())
    return torch.as_tensor(fitted, dtype=torch.float64)


def _bars(cosine_M: Tensor) -> tuple[int, ...]:
    return tuple(int(count) for count in cosine_M.clamp(0, 1).histc(NUM_BARS, 0, 1).tolist())


def _interval(cosine_M: Tensor) -> Interval:
    latents = [str(number) for number in range(len(cosine_M))]
    return ratio_interval(cosine_M, torch.ones_like(cosine_M), latents)


def read_dual_map(path: Path) -> DualMap:
    """A map from its file. Raises `CheckpointError`."""
    try:
        return DualMap.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no map of two dictionaries: {error}.") from error


def plot(found: DualMap, size: int = 360) -> str:
    """A panel each, and the overlay, as SVG."""
    xs, ys = [p.x for p in found.points], [p.y for p in found.points]
    scale = (size - 48) / max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    shapes = []
    for panel, title in enumerate((*found.names, "both")):
        shapes.append(f'<text x="{panel * size + 20}" y="16">{title}</text>')
        for number in (0, 1) if panel == 2 else (panel,):
            dots = "".join(
                f"M{panel * size + 20 + (p.x - min(xs)) * scale:.0f} "
                f"{28 + (p.y - min(ys)) * scale:.0f}h.1"
                for p in found.points
                if p.dictionary == number
            )
            shapes.append(f'<path d="{dots}" stroke="{COLORS[number]}"/>')
    width = 3 * size
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {size}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#333" stroke-width="3" '
        'stroke-linecap="round" stroke-opacity="0.5" '
        'aria-label="decoder directions of two dictionaries on one map">'
    )
    paper = f'<rect width="{width}" height="{size}" fill="#fff"/>'
    return "\n".join([head, paper, *shapes, "</svg>", ""])
