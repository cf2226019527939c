"""An audit project as the page asks for it. No model runs but the embedder.

Knows nothing of HTTP; every method may take a while and belongs on a worker's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from nlakit.audit.detect import Finding, detect
from nlakit.audit.detectors import Detector, asker
from nlakit.audit.embed import Embedder, embedder
from nlakit.audit.index import Filters, ReadingRow
from nlakit.audit.project import Project
from nlakit.audit.search import AROUND, search
from nlakit.audit.thought_map import Point, thought_map
from nlakit.errors import InputError

from .schemas_projects import (
    DetectorHits,
    OpenTranscript,
    ProjectHead,
    ThoughtHit,
    ThoughtHits,
    TokenThought,
    TranscriptHead,
    TranscriptHits,
    TranscriptPage,
)

FEWEST = 2
"""Readings that a thought map needs."""


def open_desks(directories: Sequence[Path]) -> dict[str, Desk]:
    """The projects of some directories, by name.

    Raises:
        InputError: one is no project, or two have one name.
    """
    desks: dict[str, Desk] = {}
    for directory in directories:
        desk = Desk(Project.open(directory))
        other = desks.get(desk.name)
        if other is not None:
            raise InputError(
                f"Two projects are called {desk.name!r}: {other.project.directory} and "
                f"{directory}. Rename one of the directories."
            )
        desks[desk.name] = desk
    return desks


class Desk:
    """One project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._embedder: Embedder | None = None
        # Embeddings of new readings are made once, and their file written by one thread.
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What addresses call it."""
        return self.project.name

    @property
    def embedder(self) -> Embedder:
        """The best embedder that is installed."""
        if self._embedder is None:
            self._embedder = embedder()
        return self._embedder

    def head(self) -> ProjectHead:
        """What it holds."""
        with self.project.index() as index:
            transcripts, readings = index.counts()
        card = self.project.card
        return ProjectHead(
            name=self.name,
            nla=card.nla,
            layer=card.layer,
            transcripts=transcripts,
            readings=readings,
        )

    def transcripts(self, limit: int, offset: int) -> TranscriptPage:
        """A page of its transcripts, in the order in which they came."""
        with self.project.index() as index:
            rows, total = index.transcript_page(limit, offset), index.counts()[0]
        heads = [TranscriptHead(id=i, name=n, num_tokens=t, readings=r) for i, n, t, r in rows]
        return TranscriptPage(transcripts=heads, total=total)

    def search(self, query: str, by_meaning: bool, filters: Filters, limit: int) -> ThoughtHits:
        """Readings that say or mean a query. Raises `InputError` as `audit.search.search`."""
        with self._lock:
            meaning = embedder(by_meaning=True) if by_meaning else None
            found = search(self.project, query, limit, filters, meaning)
        hits = []
        for each in found:
            before, _, rest = each.around.partition("⟦")
            after = rest[len(each.token) + 1 :]
            hits.append(
                ThoughtHit(
                    **{name: getattr(each, name) for name in SHARED},
                    before=before[-AROUND:],
                    after=after,
                )
            )
        return ThoughtHits(results=hits)

    def open(self, transcript: str) -> OpenTranscript:
        """A transcript with its readings, on the thought map where there are enough.

        Raises:
            InputError: there is no such transcript.
        """
        with self.project.index() as index:
            row = index.transcript(transcript)
            readings = index.readings(Filters(row.id, first_sample=True))
        points: dict[int, Point] = {}
        notes, name = row.notes, None
        if len(readings) >= FEWEST:
            with self._lock:
                made = thought_map(self.project, row.id, self.embedder)
            points = {each.position: each for each in made.points}
            notes, name = list(made.notes), made.embedder
        return OpenTranscript(
            id=row.id,
            name=row.name,
            text=row.text,
            num_tokens=row.num_tokens,
            notes=notes,
            readings=[_thought(each, points.get(each.position)) for each in readings],
            embedder=name,
        )

    def detect(self, phrases: Sequence[str]) -> DetectorHits:
        """Ask phrases of every reading. Raises `InputError` for none."""
        wanted = tuple(phrase for phrase in phrases if phrase.strip())
        if not wanted:
            raise InputError("The detector has no phrase. Give at least one.")
        detector = Detector(name="asked", phrases=wanted)
        asked = asker(detector, self.project.directory / "judges.sqlite")
        made = detect(self.project, detector, asked)
        hits = [each for each in made.transcripts if each.hits]
        hits.sort(key=lambda each: (1.0 if each.q is None else each.q, -each.unsupported))
        return DetectorHits(
            found=made.found.value,
            any=made.any.value,
            floor=made.floor,
            text=made.text.value,
            labels={str(label): count for label, count in made.labels.items()},
            transcripts=[_hits(each) for each in hits],
        )


SHARED = (
    *("transcript", "name", "position", "explanation", "score", "fidelity"),
    *("role", "section", "token"),
)


def _thought(row: ReadingRow, point: Point | None) -> TokenThought:
    return TokenThought(
        position=row.position,
        char_start=row.char_start,
        char_end=row.char_end,
        token=row.token,
        role=row.role,
        section=row.section,
        explanation=row.explanation,
        fidelity=row.fidelity,
        drift=None if point is None else point.drift,
        activation_drift=None if point is None else point.activation_drift,
        said=None if point is None else point.said,
        pivot=point is not None and point.pivot,
        odd=[] if point is None else list(point.odd),
    )


def _hits(found: Finding) -> TranscriptHits:
    return TranscriptHits(
        transcript=found.transcript,
        name=found.name,
        label=found.label,
        hits=found.hits,
        unsupported=found.unsupported,
        n=found.n,
        q=found.q,
        positions=list(found.positions),
    )
