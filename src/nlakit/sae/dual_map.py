"""Two dictionaries of one site side by side: nearest neighbours, and a map that both share. So two
NLAs' readings, of which `audit.reading_map` makes one.

As Braun et al. 2024 do it: the unit decoder directions of both are put together and one UMAP is
fitted to all. UMAP is no metric: how far two clusters lie apart means nothing, nor how dense one
is. Nearest neighbours are by cosine, in the full space, and do mean something.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel, validate_json
from nlakit.core.saes.metrics import max_cosines
from nlakit.errors import CheckpointError, InputError, MissingExtraError
from nlakit.evals.bootstrap import Interval, ratio_interval

from .autoencoder import SparseAutoencoder

NUM_BARS = 40
COLORS = ("#2563a8", "#c2410c")


class MapPoint(FrozenModel):
    """One latent on the map, or one reading."""

    dictionary: Literal[0, 1]
    """Which side."""
    latent: int
    """Its number; of a reading that of the token, which both sides have read."""
    x: float
    y: float
    nearest: int
    """Number of the closest on the other side, by direction or by embedding."""
    cosine: float
    text: str | None = None
    """Of a reading, the explanation."""
    around: str | None = None
    """Of a reading, the text before its token and the token."""
    same: float | None = None
    """Of a reading, the cosine with the other side's reading of the same token."""


class SameToken(FrozenModel):
    """How alike two NLAs' readings of one token are: mean cosines of their embeddings."""

    embedder: str
    by_meaning: bool
    """False: only the same words are close."""
    cosine: float
    interval: Interval
    other_document: float
    """The floor: each reading with the other NLA's of another document."""
    other_document_interval: Interval
    identical: float
    """Share of tokens at which both say the very same words."""


class DualMap(FrozenModel):
    """Two dictionaries, or the readings of two NLAs at the same tokens."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_dual_map"] = "sae_dual_map"
    of: Literal["latents", "readings"] = "latents"
    names: tuple[str, str]
    seed: int
    across: tuple[tuple[int, ...], tuple[int, ...]]
    """Points of each by their largest cosine with the other, in bars from 0 to 1."""
    within: tuple[tuple[int, ...], tuple[int, ...]]
    """The same with the others of their own side."""
    mean_across: tuple[float, float]
    """With 95 % intervals, by latent; of readings by document."""
    mean_across_intervals: tuple[Interval, Interval]
    mean_within: tuple[float, float]
    mean_within_intervals: tuple[Interval, Interval]
    points: tuple[MapPoint, ...]
    same_token: SameToken | None = None
    """Of readings."""
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
    first, second = (
        sae.directions.cpu()[list(chosen)] for sae, chosen in zip(saes, alive, strict=True)
    )
    return joint_map((first, second), alive, names, seed)


def joint_map(
    rows: tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]],
    numbers: tuple[Sequence[int], Sequence[int]],
    names: tuple[str, str],
    seed: int,
    documents: tuple[Sequence[str], Sequence[str]] | None = None,
) -> DualMap:
    """Fit one map to unit rows of two sides, and find each one's nearest on the other side.

    Args:
        numbers: what the rows of each side are called.
        documents: which document each row is of, for the intervals; None: each is by itself.

    Raises:
        MissingExtraError: umap-learn is not installed.
    """
    neighbours = (max_cosines(rows[0], rows[1]), max_cosines(rows[1], rows[0]))
    inside = [max_cosines(each, each, same=True)[0] for each in rows]
    places_N2 = _fit(torch.cat(rows), seed)
    points = []
    for side in (0, 1):
        cosine_M, index_M = neighbours[side]
        start = side * len(rows[0])
        for row, number in enumerate(numbers[side]):
            x, y = places_N2[start + row].tolist()
            points.append(
                MapPoint(
                    dictionary=1 if side else 0,
                    latent=number,
                    x=x,
                    y=y,
                    nearest=numbers[1 - side][int(index_M[row])],
                    cosine=cosine_M[row].item(),
                )
            )
    across = (neighbours[0][0], neighbours[1][0])
    of = documents or ([str(n) for n in numbers[0]], [str(n) for n in numbers[1]])
    return DualMap(
        names=names,
        seed=seed,
        across=(_bars(across[0]), _bars(across[1])),
        within=(_bars(inside[0]), _bars(inside[1])),
        mean_across=(across[0].mean().item(), across[1].mean().item()),
        mean_across_intervals=(_interval(across[0], of[0]), _interval(across[1], of[1])),
        mean_within=(inside[0].mean().item(), inside[1].mean().item()),
        mean_within_intervals=(_interval(inside[0], of[0]), _interval(inside[1], of[1])),
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


def _interval(cosine_M: Tensor, documents: Sequence[str]) -> Interval:
    return ratio_interval(cosine_M, torch.ones_like(cosine_M), documents)


def read_dual_map(path: Path) -> DualMap:
    """A map from its file. Raises `CheckpointError`."""
    try:
        return validate_json(DualMap, path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no map of two dictionaries or readings: {error}."
        ) from error


def plot(found: DualMap, size: int = 360) -> str:
    """A panel each, and the overlay, as SVG."""
    xs, ys = [p.x for p in found.points], [p.y for p in found.points]
    scale = (size - 48) / max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    shapes = []
    for panel, title in enumerate((*found.names, "both")):
        shapes.append(f'<text x="{panel * size + 20}" y="16">{html.escape(title)}</text>')
        for number in (0, 1) if panel == 2 else (panel,):
            dots = "".join(
                f"M{panel * size + 20 + (p.x - min(xs)) * scale:.0f} "
                f"{28 + (p.y - min(ys)) * scale:.0f}h.1"
                for p in found.points
                if p.dictionary == number
            )
            shapes.append(f'<path d="{dots}" stroke="{COLORS[number]}"/>')
    width, names = 3 * size, html.escape(" and ".join(found.names))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {size}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#333" stroke-width="3" '
        'stroke-linecap="round" stroke-opacity="0.5" '
        f'aria-label="{found.of} of {names} on one map">'
    )
    paper = f'<rect width="{width}" height="{size}" fill="#fff"/>'
    return "\n".join([head, paper, *shapes, "</svg>", ""])
