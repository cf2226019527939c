"""How the thoughts of one transcript move: drift, turning points, odd readings, themes over time.

Distances are 1 - cosine. Drift is measured from the mean of the first `START` readings, of the
explanations (as embedded) and of the activations themselves, so that one may be held against the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nlakit.errors import InputError, MissingExtraError

from .embed import Embedder, unit_rows
from .index import Filters, ReadingRow
from .meaning import embedded
from .project import Project
from .search import around
from .vectors import vectors_of
from .words import said_share

START = 5
ODD = 0.95
"""A reading is far where it is farther from its nearest neighbour than this share of all are."""
LOW_FIDELITY = 0.2
"""Below it an explanation is not to be believed (`reading.GRADES`)."""
PENALTY = 1.0
"""What a turning point must gain, in units of the mean distance of readings from their middle."""


class Point(NamedTuple):
    """One reading of the map.

    Attributes:
        drift: of the explanation from the start; `activation_drift`, of the activation.
        said: share of the explanation's content words that the text before it says; None: none.
        nearest: distance to the nearest reading of another transcript; None: there is none.
        themes: nearness to each theme that was asked for.
        pivot: a turning point starts here.
        odd: why the reading stands out; empty where it does not.
    """

    position: int
    token: str
    around: str
    role: str | None
    section: str | None
    explanation: str
    fidelity: float | None
    drift: float
    activation_drift: float
    said: float | None
    nearest: float | None
    themes: tuple[float, ...]
    pivot: bool
    odd: tuple[str, ...]


class ThoughtMap(NamedTuple):
    """A transcript's readings in order.

    Attributes:
        themes: names of the themes, in the order of `Point.themes`.
        against: nearness of this transcript's readings to another's, over time; None: not asked.
    """

    transcript: str
    name: str
    embedder: str
    points: tuple[Point, ...]
    pivots: tuple[int, ...]
    themes: tuple[str, ...]
    against: tuple[float, ...] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `nlakit thought-map --json` prints it."""
        return {**self._asdict(), "points": [each._asdict() for each in self.points]}


def thought_map(
    project: Project,
    name: str,
    embedder: Embedder,
    themes: Sequence[str] = (),
    against: str | None = None,
    section: str | None = None,
) -> ThoughtMap:
    """The map of one transcript.

    Args:
        themes: sentences whose nearness is followed, such as two to hold head to head.
        against: another transcript, whose mean reading up to the same share is compared with.
        section: only readings of this section, such as "thinking".

    Raises:
        InputError: there is no such transcript, or it has fewer than two readings.
    """
    with project.index() as index:
        transcript = index.transcript(name)
        rows = index.readings(Filters(transcript.id, section=section, first_sample=True))
        all_of = embedded(project, index, embedder)
        own = set(index.ids(Filters(transcript.id)))
        other = (
            []
            if against is None
            else index.readings(
                Filters(index.transcript(against).id, section=section, first_sample=True)
            )
        )
    if len(rows) < 2 or (against is not None and len(other) < 2):
        raise InputError(f"{name} has too few readings for a map: 2 or more of each transcript.")
    vectors_NE = _rows_of(all_of.ids, all_of.rows_NE, rows)
    activations_ND = unit_rows(vectors_of(project, rows).numpy())
    foreign = [place for place, number in enumerate(all_of.ids) if number not in own]
    nearest = _nearest(vectors_NE, all_of.rows_NE[foreign])
    pivots, notes = _pivots(vectors_NE)
    themed_NT = vectors_NE @ embedder.embed(list(themes)).T if themes else np.zeros((len(rows), 0))
    drifts = (_drift(vectors_NE), _drift(activations_ND))
    points = tuple(
        Point(
            position=row.position,
            token=row.token,
            around=around(transcript.text, row.char_start, row.char_end),
            role=row.role,
            section=row.section,
            explanation=row.explanation,
            fidelity=row.fidelity,
            drift=float(drifts[0][i]),
            activation_drift=float(drifts[1][i]),
            said=said_share(row.explanation, transcript.text[: row.char_end]),
            nearest=None if nearest is None else float(nearest[i]),
            themes=tuple(float(each) for each in themed_NT[i]),
            pivot=i in pivots,
            odd=tuple(_odd(row, i, nearest)),
        )
        for i, row in enumerate(rows)
    )
    followed = None
    if other:
        followed = _followed(vectors_NE, _rows_of(all_of.ids, all_of.rows_NE, other))
    return ThoughtMap(
        transcript=transcript.id,
        name=transcript.name,
        embedder=embedder.name,
        points=points,
        pivots=tuple(rows[i].position for i in pivots),
        themes=tuple(themes),
        against=followed,
        notes=(*transcript.notes, *notes),
    )


def _rows_of(
    ids: Sequence[int], rows_NE: Float[np.ndarray, "N E"], rows: Sequence[ReadingRow]
) -> Float[np.ndarray, "M E"]:
    place = {number: i for i, number in enumerate(ids)}
    return rows_NE[[place[row.id] for row in rows]]


def _drift(rows_NE: Float[np.ndarray, "N E"]) -> Float[np.ndarray, " N"]:
    """Distance from the mean of the first rows."""
    start_1E = unit_rows(rows_NE[:START].mean(axis=0, keepdims=True))
    return 1 - rows_NE @ start_1E[0]


def _nearest(
    rows_NE: Float[np.ndarray, "N E"], others_ME: Float[np.ndarray, "M E"]
) -> Float[np.ndarray, " N"] | None:
    return 1 - (rows_NE @ others_ME.T).max(axis=1) if len(others_ME) else None


def _odd(row: ReadingRow, i: int, nearest: Float[np.ndarray, " N"] | None) -> list[str]:
    told = []
    if row.fidelity is not None and row.fidelity < LOW_FIDELITY:
        told.append(f"fidelity {row.fidelity:.2f} is not to be believed")
    enough = nearest is not None and len(nearest) > 1 / (1 - ODD)
    if nearest is not None and enough and nearest[i] > max(np.quantile(nearest, ODD), 1e-6):
        told.append("far from what other transcripts make it think")
    return told


def _pivots(rows_NE: Float[np.ndarray, "N E"]) -> tuple[list[int], list[str]]:
    """Rows at which a new stretch starts, by kernel change points with the cosine."""
    try:
        import ruptures
    except ImportError:
        return [], [f"Turning points are left out. {MissingExtraError('ruptures', 'search')}"]
    if len(rows_NE) < 4:
        return [], []
    centred = rows_NE - rows_NE.mean(axis=0)
    spread = float((centred**2).sum(axis=1).mean())
    if spread < 1e-9:
        return [], []
    # The cost of a stretch is its summed spread; a penalty of a few rows' spread and a logarithm.
    penalty = PENALTY * spread * np.log(len(rows_NE)) * 2
    signal = rows_NE + 0.0
    signal[np.linalg.norm(signal, axis=1) == 0, 0] = 1e-6  # a zero row has no cosine
    search: Any = ruptures.KernelCPD(kernel="cosine", min_size=2).fit(signal)
    return [int(each) for each in search.predict(pen=penalty)[:-1]], []  # the last is the end


def _followed(
    rows_NE: Float[np.ndarray, "N E"], other_ME: Float[np.ndarray, "M E"]
) -> tuple[float, ...]:
    """Cosine of each row with the other's row at the same share of its readings."""
    places = np.round(np.linspace(0, len(other_ME) - 1, len(rows_NE))).astype(int)
    return tuple(float(each) for each in (rows_NE * other_ME[places]).sum(axis=1))
