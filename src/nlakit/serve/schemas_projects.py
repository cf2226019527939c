"""The records of audit projects under /v1/projects."""

from __future__ import annotations

from .schemas import WireModel


class ProjectHead(WireModel):
    """A project that the server was started with."""

    name: str
    nla: str
    layer: int
    transcripts: int
    readings: int


class Projects(WireModel):
    projects: list[ProjectHead]


class TranscriptHead(WireModel):
    id: str
    name: str
    num_tokens: int
    readings: int


class TranscriptPage(WireModel):
    transcripts: list[TranscriptHead]
    total: int


class ThoughtHit(WireModel):
    """A reading that a search found. `before` and `after` are the transcript's words around the
    token."""

    transcript: str
    name: str
    position: int
    explanation: str
    score: float
    fidelity: float | None
    role: str | None
    section: str | None
    before: str
    token: str
    after: str


class ThoughtHits(WireModel):
    results: list[ThoughtHit]


class TokenThought(WireModel):
    """A reading of a transcript, with its place on the thought map.

    `drift` and `activation_drift` are distances from the start of the transcript, `said` the share
    of the explanation's words that the text before it says, `odd` why it stands out.
    """

    position: int
    char_start: int
    char_end: int
    token: str
    role: str | None
    section: str | None
    explanation: str
    fidelity: float | None
    drift: float | None
    activation_drift: float | None
    said: float | None
    pivot: bool
    odd: list[str]


class OpenTranscript(WireModel):
    """A transcript with everything that was read of it."""

    id: str
    name: str
    text: str
    num_tokens: int
    notes: list[str]
    readings: list[TokenThought]
    embedder: str | None
    """Of the drift; None: too few readings for a map."""


class TranscriptHits(WireModel):
    """A detector at one transcript. `label`: found, echo, unspecific, untested or none."""

    transcript: str
    name: str
    label: str
    hits: int
    unsupported: int
    n: int
    q: float | None
    positions: list[int]


class DetectorHits(WireModel):
    """Phrases asked of every reading, beside what chance and the text alone explain."""

    found: float
    any: float
    floor: float | None
    text: float
    labels: dict[str, int]
    transcripts: list[TranscriptHits]
    """Those with a hit, the surest first."""
