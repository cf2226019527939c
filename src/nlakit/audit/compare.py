"""Two models, or two checkpoints, over the same transcripts: what is said more often of the second.

Positions of one transcript are not independent, so whole transcripts are permuted: under the null
hypothesis the two sides of a transcript may be exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from nlakit.errors import InputError
from nlakit.pair.pair import Pair

from .embed import Embedder
from .index import Filters, ReadingRow
from .project import Project
from .vectors import vectors_of
from .words import terms

PERMUTATIONS = 4999
DIRICHLET = 0.01
RANDOM_DIRECTIONS = 64
MIN_TRANSCRIPTS = 2
"""Transcripts that must have a term before it is tested."""


class Theme(NamedTuple):
    """A word, or two in a row.

    Attributes:
        rate_a, rate_b: share of positions whose explanation has it, mean over transcripts.
        log_odds: of B against A, with a Dirichlet prior.
        p, q: two-sided, by permutation of transcripts; q controls the false discovery rate.
    """

    term: str
    rate_a: float
    rate_b: float
    log_odds: float
    p: float
    q: float


class Parting(NamedTuple):
    """A position at which the two readings differ; `distance` is 1 - cosine of the embeddings."""

    transcript: str
    name: str
    position: int
    distance: float
    a: str
    b: str


class Direction(NamedTuple):
    """The mean difference of activations (B - A), read as text.

    Attributes:
        norm: of the difference, as a share of the mean norm of activations.
        cosine: of the difference and what its explanation is rebuilt to.
        random_mean, random_max: the same of random directions of that norm.
        share_below: of random directions with a lower cosine.
        random: what the NLA says of some of them.
    """

    explanation: str
    norm: float
    cosine: float
    random_mean: float
    random_max: float
    share_below: float
    random: tuple[str, ...]


class Comparison(NamedTuple):
    """A against B."""

    transcripts: int
    positions: int
    themes: tuple[Theme, ...]
    partings: tuple[Parting, ...]
    embedder: str
    direction: Direction | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `nlakit compare-models --json` prints it."""
        made = self._asdict()
        made["themes"] = [each._asdict() for each in self.themes]
        made["partings"] = [each._asdict() for each in self.partings]
        made["direction"] = self.direction and self.direction._asdict()
        return made


def compare(
    first: Project,
    second: Project,
    embedder: Embedder,
    reader: Pair | None = None,
    limit: int = 20,
    seed: int = 0,
) -> Comparison:
    """Compare two projects that hold readings of the same transcripts.

    Args:
        reader: reads the mean difference of activations; None: it is not read.
        limit: themes and partings at most.

    Raises:
        InputError: they have no position in common.
    """
    pairs = _common(first, second)
    notes = []
    themes = _themes(pairs, seed)
    direction = None
    if reader is not None:
        same = (first.card.d_model, first.card.layer) == (second.card.d_model, second.card.layer)
        if same and first.card.d_model == reader.card.d_model:
            direction = _direction(first, second, pairs, reader, seed)
        else:
            notes.append("Activations of different width or block have no difference.")
    return Comparison(
        transcripts=len({a.transcript for a, _ in pairs}),
        positions=len(pairs),
        themes=tuple(themes[:limit]),
        partings=tuple(_partings(pairs, embedder)[:limit]),
        embedder=embedder.name,
        direction=direction,
        notes=tuple(notes),
    )


def _common(first: Project, second: Project) -> list[tuple[ReadingRow, ReadingRow]]:
    """The first sample of each side at the same position of the same transcript."""
    sides = []
    for project in (first, second):
        with project.index() as index:
            rows = index.readings(Filters(first_sample=True))
        sides.append({(row.transcript, row.position): row for row in rows})
    keys = sorted(sides[0].keys() & sides[1].keys())
    if not keys:
        raise InputError(
            "The two have no position of a transcript in common. Their chat templates or "
            "tokenizers differ, or other transcripts were read."
        )
    return [(sides[0][key], sides[1][key]) for key in keys]


def _themes(pairs: Sequence[tuple[ReadingRow, ReadingRow]], seed: int) -> list[Theme]:
    """Terms by how far their rates part; those that the permutation test supports first."""
    said = [(terms(a.explanation), terms(b.explanation)) for a, b in pairs]
    names = sorted({a.transcript for a, _ in pairs})
    row_of = {name: row for row, name in enumerate(names)}
    rows = [row_of[a.transcript] for a, _ in pairs]
    held: Counter[str] = Counter()
    for _, term in {(row, term) for row, (a, b) in zip(rows, said, strict=True) for term in a | b}:
        held[term] += 1
    vocabulary = sorted(term for term, count in held.items() if count >= MIN_TRANSCRIPTS)
    if not vocabulary:
        return []
    column = {term: number for number, term in enumerate(vocabulary)}
    counts_2RT = np.zeros((2, len(names), len(vocabulary)))
    for row, both in zip(rows, said, strict=True):
        for side, found in enumerate(both):
            known = [column[term] for term in found if term in column]
            counts_2RT[side, row, known] += 1
    sizes_R1 = np.bincount(rows, minlength=len(names))[:, None]
    rates_2RT = counts_2RT / sizes_R1
    p_T = permutation_p(rates_2RT[1] - rates_2RT[0], seed)
    q_T = stats.false_discovery_control(p_T)
    odds_T = log_odds(counts_2RT[0].sum(0), counts_2RT[1].sum(0))
    made = [
        Theme(
            term=term,
            rate_a=float(rates_2RT[0, :, i].mean()),
            rate_b=float(rates_2RT[1, :, i].mean()),
            log_odds=float(odds_T[i]),
            p=float(p_T[i]),
            q=float(q_T[i]),
        )
        for i, term in enumerate(vocabulary)
    ]
    return sorted(made, key=lambda each: (each.q, -abs(each.rate_b - each.rate_a), each.term))


def permutation_p(
    differences_RT: Float[np.ndarray, "R T"], seed: int = 0, count: int = PERMUTATIONS
) -> Float[np.ndarray, " T"]:
    """Two-sided p of a mean difference over R transcripts, whose sides are exchanged at random."""
    observed_T = np.abs(differences_RT.mean(0))
    rng = np.random.default_rng(seed)
    at_least_T = np.zeros_like(observed_T)
    for start in range(0, count, 500):
        size = min(500, count - start)
        signs_PR = rng.choice((-1.0, 1.0), size=(size, len(differences_RT)))
        means_PT = np.abs(signs_PR @ differences_RT / len(differences_RT))
        at_least_T += (means_PT >= observed_T - 1e-12).sum(0)
    return (at_least_T + 1) / (count + 1)


def log_odds(
    first_T: Float[np.ndarray, " T"], second_T: Float[np.ndarray, " T"]
) -> Float[np.ndarray, " T"]:
    """Log odds ratio of each term, the second counts against the first, with a Dirichlet prior."""
    sums = [counts.sum() + DIRICHLET * len(counts) for counts in (first_T, second_T)]
    odds = [
        (counts + DIRICHLET) / (total - counts - DIRICHLET)
        for counts, total in zip((first_T, second_T), sums, strict=True)
    ]
    return np.log(odds[1] / odds[0])


def _partings(pairs: Sequence[tuple[ReadingRow, ReadingRow]], embedder: Embedder) -> list[Parting]:
    a_NE = embedder.embed([a.explanation for a, _ in pairs])
    b_NE = embedder.embed([b.explanation for _, b in pairs])
    distances = (1 - (a_NE * b_NE).sum(1)).tolist()
    made = [
        Parting(a.transcript, a.name, a.position, distance, a.explanation, b.explanation)
        for (a, b), distance in zip(pairs, distances, strict=True)
        if a.explanation != b.explanation
    ]
    return sorted(made, key=lambda each: (-each.distance, each.transcript, each.position))


def _direction(
    first: Project,
    second: Project,
    pairs: Sequence[tuple[ReadingRow, ReadingRow]],
    reader: Pair,
    seed: int,
) -> Direction | None:
    a_ND = vectors_of(first, [a for a, _ in pairs])
    b_ND = vectors_of(second, [b for _, b in pairs])
    difference_D = (b_ND - a_ND).mean(0)
    length, usual = float(difference_D.norm()), float(a_ND.norm(dim=1).mean())
    if length == 0:
        return None  # the same model twice
    generator = torch.Generator().manual_seed(seed)
    random_RD = torch.randn(RANDOM_DIRECTIONS, len(difference_D), generator=generator)
    both = torch.cat(
        [difference_D[None], random_RD * (length / random_RD.norm(dim=1, keepdim=True))]
    )
    # The verbalizer reads directions; the norm is that of the activations it was trained on.
    rows = reader.describe(_at_norm(both, usual)).tokens
    cosines = [row.cosine for row in rows]
    return Direction(
        explanation=rows[0].explanation,
        norm=length / usual,
        cosine=cosines[0],
        random_mean=sum(cosines[1:]) / RANDOM_DIRECTIONS,
        random_max=max(cosines[1:]),
        share_below=sum(each < cosines[0] for each in cosines[1:]) / RANDOM_DIRECTIONS,
        random=tuple(row.explanation for row in rows[1:6]),
    )


def _at_norm(rows_ND: Float[Tensor, "N D"], norm: float) -> Float[Tensor, "N D"]:
    return rows_ND * (norm / rows_ND.norm(dim=1, keepdim=True).clamp_min(1e-12))
