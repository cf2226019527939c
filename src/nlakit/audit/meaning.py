"""The embeddings of a project's readings, kept beside its index, and the nearest of them.

`embeddings/NAME.npy` has a row a reading, in the order of their numbers; it grows as readings are
added. Numbers of readings are never used again, so a row once written stays true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nlakit.data.shards import write_atomic
from nlakit.errors import CheckpointError

from .embed import Embedder
from .index import Index
from .project import Project

EXACT_ROWS = 1_000_000
"""Up to this the dot product with every row is taken; past it usearch finds candidates."""
CANDIDATES = 20


class Embedded(NamedTuple):
    """Numbers of readings, ascending, and their unit rows."""

    ids: list[int]
    rows_NE: Float[np.ndarray, "N E"]


def embedded(project: Project, index: Index, embedder: Embedder) -> Embedded:
    """The embeddings of all readings; what is missing is embedded now.

    Raises:
        CheckpointError: the file is corrupt.
    """
    path = project.directory / "embeddings" / f"{embedder.name}.npy"
    numbered = index.explanations()
    ids = [number for number, _ in numbered]
    try:
        rows_NE = np.load(path, allow_pickle=False) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt: {error}. Remove it.") from error
    done = 0 if rows_NE is None else len(rows_NE)
    if done < len(ids):
        # Many readings say the same words; each is embedded once.
        texts = [text for _, text in numbered[done:]]
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        new_NE = embedder.embed(distinct)[[place[text] for text in texts]]
        rows_NE = new_NE if rows_NE is None else np.concatenate([rows_NE, new_NE])
        whole = rows_NE
        write_atomic(path, lambda temporary: _save(temporary, whole))
    assert rows_NE is not None or not ids
    return Embedded(ids, np.zeros((0, 1), np.float32) if rows_NE is None else rows_NE[: len(ids)])


def _save(path: object, rows_NE: Float[np.ndarray, "N E"]) -> None:
    with open(str(path), "wb") as file:
        np.save(file, rows_NE, allow_pickle=False)


def nearest(
    found: Embedded,
    query_E: Float[np.ndarray, " E"],
    limit: int,
    allowed: Sequence[int] | None = None,
    exact_rows: int = EXACT_ROWS,
) -> list[tuple[int, float]]:
    """(number, cosine) of the nearest readings, best first.

    Args:
        allowed: numbers of readings that count, ascending; None: all.
        exact_rows: with more rows usearch is asked for candidates, where it is installed.
    """
    rows = np.arange(len(found.ids))
    if allowed is not None:
        rows = np.flatnonzero(np.isin(np.asarray(found.ids), np.asarray(allowed)))
    if len(rows) > exact_rows:
        rows = _candidates(found.rows_NE, rows, query_E, limit)
    scores = found.rows_NE[rows] @ query_E
    best = np.argsort(-scores, kind="stable")[:limit]
    return [(found.ids[rows[each]], float(scores[each])) for each in best]


def _candidates(
    rows_NE: Float[np.ndarray, "N E"], rows: np.ndarray, query_E: np.ndarray, limit: int
) -> np.ndarray:
    """Rows that usearch thinks near, many more than are asked for; all where it is not there."""
    try:
        from usearch.index import Index as NearIndex
    except ImportError:
        return rows
    near = NearIndex(ndim=rows_NE.shape[1], metric="ip", dtype="f32")
    near.add(rows.astype(np.uint64), rows_NE[rows])
    matches = near.search(query_E, limit * CANDIDATES)
    return np.sort(np.asarray(matches.keys, dtype=np.int64))
