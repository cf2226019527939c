"""Themes: clusters of readings that say the like, with their typical readings and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nlakit.errors import InputError

from .embed import Embedder
from .index import Filters, ReadingRow
from .meaning import embedded
from .project import Project
from .words import content_words

TYPICAL = 5
LARGEST_FIT = 20_000
"""HDBSCAN compares all pairs; of more readings a sample is clustered, and the rest assigned."""


class Theme(NamedTuple):
    """A cluster.

    Attributes:
        words: that its readings hold more often than others do.
        transcripts: how many have a reading of it.
        typical: the readings nearest to its middle.
    """

    number: int
    size: int
    transcripts: int
    words: tuple[str, ...]
    typical: tuple[ReadingRow, ...]


class Themes(NamedTuple):
    """All clusters, largest first; `noise` readings belong to none.

    Attributes:
        ids, labels: numbers of readings and the number of the theme of each, -1 for none.
        centres_CE: unit rows, by the number of a theme.
    """

    themes: tuple[Theme, ...]
    noise: int
    ids: list[int]
    labels_N: Int[np.ndarray, " N"]
    centres_CE: Float[np.ndarray, "C E"]
    embedder: str


def themes(
    project: Project, embedder: Embedder, filters: Filters, min_size: int = 5, seed: int = 0
) -> Themes:
    """Cluster the readings of a project.

    Raises:
        InputError: a size below 2, or fewer readings than one cluster needs.
    """
    if min_size < 2:
        raise InputError(f"--min-size must be 2 or more, found {min_size}.")
    with project.index() as index:
        rows = index.readings(filters)
        found = embedded(project, index, embedder)
    if len(rows) < min_size:
        raise InputError(f"{len(rows)} readings are too few for themes of {min_size} or more.")
    place = {number: row for row, number in enumerate(found.ids)}
    vectors_NE = found.rows_NE[[place[row.id] for row in rows]]
    labels_N = clustered(vectors_NE, min_size, seed)
    order = [label for label, _ in Counter(x for x in labels_N.tolist() if x >= 0).most_common()]
    renamed_N = np.asarray([order.index(x) if x >= 0 else -1 for x in labels_N.tolist()])
    centres_CE = centres(vectors_NE, renamed_N, len(order))
    words = [content_words(row.explanation) for row in rows]
    made = tuple(
        _theme(number, rows, words, vectors_NE, renamed_N, centres_CE)
        for number in range(len(order))
    )
    noise = int((renamed_N < 0).sum())
    return Themes(made, noise, [row.id for row in rows], renamed_N, centres_CE, embedder.name)


def clustered(
    vectors_NE: Float[np.ndarray, "N E"], min_size: int, seed: int = 0
) -> Int[np.ndarray, " N"]:
    """A label a row, -1 for none. Rows have norm 1, so distance goes with the cosine."""
    from sklearn import cluster

    make: Any = cluster.HDBSCAN  # its stubs take `copy` for text
    size = len(vectors_NE)
    chosen = np.arange(size)
    if size > LARGEST_FIT:
        chosen = np.sort(np.random.default_rng(seed).choice(size, LARGEST_FIT, replace=False))
    fitted = make(min_cluster_size=min_size, copy=True).fit_predict(vectors_NE[chosen])
    if size == len(chosen):
        return fitted
    labels_N = np.full(size, -1)
    labels_N[chosen] = fitted
    centres_CE = centres(vectors_NE[chosen], fitted, fitted.max() + 1)
    rest = np.setdiff1d(np.arange(size), chosen)
    if len(centres_CE):
        cosines = vectors_NE[rest] @ centres_CE.T
        inside = vectors_NE[chosen][fitted >= 0] @ centres_CE.T
        # As near as nine in ten of the readings of clusters are to their own middle.
        near = np.quantile(inside.max(axis=1), 0.1)
        labels_N[rest] = np.where(cosines.max(axis=1) >= near, cosines.argmax(axis=1), -1)
    return labels_N


def centres(
    vectors_NE: Float[np.ndarray, "N E"], labels_N: np.ndarray, count: int
) -> Float[np.ndarray, "C E"]:
    """The middle of each cluster, at norm 1."""
    made = np.zeros((count, vectors_NE.shape[1]), np.float32)
    for number in range(count):
        mean = vectors_NE[labels_N == number].mean(axis=0)
        made[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return made


def _theme(
    number: int,
    rows: Sequence[ReadingRow],
    words: Sequence[frozenset[str]],
    vectors_NE: np.ndarray,
    labels_N: np.ndarray,
    centres_CE: np.ndarray,
) -> Theme:
    members = np.flatnonzero(labels_N == number)
    nearness = vectors_NE[members] @ centres_CE[number]
    nearest = members[np.argsort(-nearness, kind="stable")].tolist()
    typical: dict[str, ReadingRow] = {}
    for member in nearest:
        typical.setdefault(rows[member].explanation, rows[member])
        if len(typical) == TYPICAL:
            break
    return Theme(
        number=number,
        size=len(members),
        transcripts=len({rows[member].transcript for member in nearest}),
        words=telling_words([words[m] for m in members.tolist()], words),
        typical=tuple(typical.values()),
    )


def telling_words(
    inside: Sequence[frozenset[str]], everywhere: Sequence[frozenset[str]], count: int = 6
) -> tuple[str, ...]:
    """Words that some texts hold more often than all do, the most telling first."""
    here = Counter(word for each in inside for word in each)
    all_of = Counter(word for each in everywhere for word in each)
    scores = {
        word: (n / len(inside)) * np.log((n / len(inside)) / (all_of[word] / len(everywhere)))
        for word, n in here.items()
        if n > 1
    }
    best = sorted(scores, key=lambda word: (-scores[word], word))
    return tuple(word for word in best[:count] if scores[word] > 0)
