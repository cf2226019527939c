"""Search over what an NLA said: by words (bm25) or by meaning, with the words around each hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from nlakit.errors import InputError

from .embed import Embedder
from .index import EVERYTHING, Filters, Index, ReadingRow
from .meaning import embedded, nearest
from .project import Project

AROUND = 80
"""Characters of the transcript shown on either side of a token."""


class Hit(NamedTuple):
    """A reading that was found.

    Attributes:
        around: the transcript's words around the token, which stands between ⟦ and ⟧.
        score: -bm25, or the cosine of the embeddings: larger is better.
        link: address of the reading on the page, below the server's own.
    """

    transcript: str
    name: str
    position: int
    sample: int
    explanation: str
    score: float
    fidelity: float | None
    confidence: float | None
    role: str | None
    section: str | None
    token: str
    around: str
    link: str


def search(
    project: Project,
    query: str,
    limit: int = 20,
    filters: Filters = EVERYTHING,
    meaning: Embedder | None = None,
) -> list[Hit]:
    """The readings that say or mean a query, best first.

    Args:
        meaning: embeds query and readings; None: search by words.

    Raises:
        InputError: an empty query, a limit below 1, a transcript that is not there, or
            confidences were asked for and nobody knows any.
    """
    if limit < 1:
        raise InputError(f"--limit must be 1 or more, found {limit}.")
    if not query.strip():
        raise InputError("The query is empty. Give at least one word.")
    if filters.min_confidence is not None and not project.card.confidence:
        raise InputError(
            f"The readings of {project.directory} have no confidence. Scan again into another "
            "project, with --confidence."
        )
    with project.index() as index:
        if filters.transcript is not None:
            filters = filters._replace(transcript=index.transcript(filters.transcript).id)
        if meaning is None:
            found = index.search(query, limit, filters)
        else:
            allowed = None if filters == EVERYTHING else index.ids(filters)
            (query_E,) = meaning.embed([query])
            found = nearest(embedded(project, index, meaning), query_E, limit, allowed)
        rows = index.by_ids([number for number, _ in found])
        return hits(project, index, rows, dict(found))


def hits(
    project: Project, index: Index, rows: Sequence[ReadingRow], scores: dict[int, float]
) -> list[Hit]:
    """Readings with the words around them."""
    texts = {name: index.transcript(name).text for name in {row.transcript for row in rows}}
    return [
        Hit(
            transcript=row.transcript,
            name=row.name,
            position=row.position,
            sample=row.sample,
            explanation=row.explanation,
            score=scores[row.id],
            fidelity=row.fidelity,
            confidence=row.confidence,
            role=row.role,
            section=row.section,
            token=row.token,
            around=around(texts[row.transcript], row.char_start, row.char_end),
            link=link(project, row.transcript, row.position),
        )
        for row in rows
    ]


def around(text: str, start: int, end: int) -> str:
    """The words around a token."""
    before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
    return f"{before}⟦{text[start:end]}⟧{after}"


def link(project: Project, transcript: str, position: int) -> str:
    """Address of a reading on the page."""
    fields = {"project": project.name, "transcript": transcript, "position": position}
    return f"/#{urlencode(fields)}"
