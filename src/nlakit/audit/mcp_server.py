"""The desk for an auditing agent: a project and a pair as tools of the Model Context Protocol.

Results are short and cite `transcript:position`; what is longer comes in pages with a cursor. Every
tool only reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from pydantic import BaseModel

from nlakit.errors import InputError, MissingExtraError, UserError
from nlakit.pair.pair import Pair
from nlakit.pair.steer import STRENGTH

from .detect import detect as run_detector
from .detect import hits_of
from .detectors import Detector, asker
from .embed import Embedder
from .index import Filters, ReadingRow
from .project import Project
from .search import search as find
from .words import terms

PAGE = 10
TEXT_PAGE = 4000
"""Characters of a transcript in one answer."""
MAX_TEXT = 32_000
INSTRUCTIONS = (
    "Explanations are what a verbalizer says of a model's activation at one token. Fidelity says "
    "how far to believe one: 0.8 or more faithful, below 0.2 do not believe. A finding that the "
    "transcript's own text supports is an echo. Cite transcript:position."
)


class Cited(BaseModel):
    """A reading with where it stands."""

    cite: str
    explanation: str
    fidelity: float | None
    around: str
    score: float | None = None


class Found(BaseModel):
    """A page of readings. `next_cursor` is empty on the last page."""

    shown: str
    results: list[Cited]
    next_cursor: str = ""


class Listed(BaseModel):
    """A page of transcripts."""

    shown: str
    transcripts: list[str]
    next_cursor: str = ""


class Opened(BaseModel):
    """A page of a transcript, and what was read there."""

    transcript: str
    name: str
    shown: str
    text: str
    readings: list[Cited]
    notes: list[str]
    next_cursor: str = ""


class DetectorResult(BaseModel):
    """A detector at all transcripts; `found` cites those that are more than chance and echo."""

    found_share: float
    any_share: float
    chance: float | None
    text_share: float
    labels: dict[str, int]
    found: list[str]


class Compared(BaseModel):
    """Terms by how much more often the second transcript's readings have them."""

    more_in_first: list[str]
    more_in_second: list[str]


class Explained(BaseModel):
    """Readings of a text, token by token."""

    readings: list[Cited]
    notices: list[str]


class Steering(BaseModel):
    """What an edited explanation does to the continuation."""

    explanation: str
    edited: str
    without_change: str
    with_change: str


class Desk(NamedTuple):
    """What the tools have: a project, a pair, or both; or those of an audit game.

    Attributes:
        meaning: makes the embedder when it is first needed.
        looking, writing: more tools, that only read, and that keep an answer.
    """

    project: Project | None
    pair: Pair | None
    meaning: Callable[[], Embedder]
    looking: Sequence[Callable[..., Any]] = ()
    writing: Sequence[Callable[..., Any]] = ()


def build_server(desk: Desk) -> Any:
    """The server with the tools that the desk can serve.

    Raises:
        MissingExtraError: the SDK is not installed.
        InputError: neither a project nor a pair.
    """
    try:
        from mcp.server import MCPServer
        from mcp_types import ToolAnnotations
    except ImportError as error:
        raise MissingExtraError("mcp", "mcp") from error
    if desk.project is None and desk.pair is None and not desk.looking:
        raise InputError("Neither a project nor a pair was given. Name one of them.")
    server = MCPServer("nlakit", instructions=INSTRUCTIONS)
    tools: list[Callable[..., Any]] = []
    if desk.project is not None:
        tools += project_tools(desk.project, desk.meaning)
    if desk.pair is not None:
        tools += pair_tools(desk.pair)
    for tool in [*tools, *map(_told, desk.looking)]:
        server.tool(annotations=ToolAnnotations(read_only_hint=True))(tool)
    for tool in map(_told, desk.writing):
        server.tool(annotations=ToolAnnotations(read_only_hint=False))(tool)
    return server


def project_tools(project: Project, meaning: Callable[[], Embedder]) -> list[Callable[..., Any]]:
    """Tools over the readings of a project."""

    def list_transcripts(cursor: str = "") -> Listed:
        """The transcripts of the project, with their names and lengths."""
        with project.index() as index:
            rows = index.transcripts()
        start, shown = _page(cursor, len(rows), PAGE * 3)
        told = [f"{r.id} {r.name}: {r.num_tokens} tokens" for r in rows[start : start + PAGE * 3]]
        following = _next(start, PAGE * 3, len(rows))
        return Listed(shown=shown, transcripts=told, next_cursor=following)

    def search(
        query: str,
        by_meaning: bool = False,
        transcript: str | None = None,
        role: str | None = None,
        section: str | None = None,
        min_fidelity: float | None = None,
        cursor: str = "",
    ) -> Found:
        """Search what was read: by words, or by meaning. `section` may be thinking or tool_call."""
        start = _start(cursor)
        filters = Filters(transcript, role, section, min_fidelity)
        embedder = meaning() if by_meaning else None
        found = find(project, query, start + PAGE + 1, filters, embedder)
        page = found[start : start + PAGE]
        results = [
            Cited(
                cite=f"{each.transcript}:{each.position}",
                explanation=each.explanation,
                fidelity=each.fidelity,
                around=each.around,
                score=each.score,
            )
            for each in page
        ]
        more = str(start + PAGE) if len(found) > start + PAGE else ""
        shown = f"{start + 1} to {start + len(page)}" + (", and more" if more else "")
        return Found(shown=shown if page else "nothing", results=results, next_cursor=more)

    def open_transcript(transcript: str, cursor: str = "") -> Opened:
        """A transcript's text, a page at a time, with what was read at its tokens."""
        with project.index() as index:
            row = index.transcript(transcript)
            start, shown = _page(cursor, len(row.text), TEXT_PAGE)
            end = start + TEXT_PAGE
            readings = index.readings(Filters(row.id, first_sample=True))
        here = [each for each in readings if start <= each.char_start < end][: PAGE * 3]
        return Opened(
            transcript=row.id,
            name=row.name,
            shown=f"characters {shown}",
            text=row.text[start:end],
            readings=[_cited(each, "") for each in here],
            notes=row.notes,
            next_cursor=_next(start, TEXT_PAGE, len(row.text)),
        )

    def detect(
        phrases: list[str] | None = None, regex: str | None = None, sentence: str | None = None
    ) -> DetectorResult:
        """Ask one question of every reading: phrases, or a regular expression, or a sentence whose
        meaning counts. Hits that the transcript's own text supports are echoes, and not counted."""
        detector = Detector(
            name="asked", phrases=tuple(phrases or ()), regex=regex, sentence=sentence
        )
        made = run_detector(project, detector, asker(detector, project.directory / "judges.sqlite"))
        cites = [f"{each.transcript}:{each.positions[0]}" for each in hits_of(made)]
        return DetectorResult(
            found_share=made.found.value,
            any_share=made.any.value,
            chance=made.floor,
            text_share=made.text.value,
            labels={str(label): count for label, count in made.labels.items()},
            found=cites[: PAGE * 2],
        )

    def compare(first: str, second: str) -> Compared:
        """What is read more often of one transcript than of another."""
        with project.index() as index:
            rates = [
                _term_rates(index.readings(Filters(index.transcript(n).id)))
                for n in (first, second)
            ]
        parted = {term: rates[1][term] - rates[0][term] for term in rates[0] | rates[1]}
        order = sorted(parted, key=lambda term: (parted[term], term))
        return Compared(
            more_in_first=[f"{t} {-parted[t]:+.2f}" for t in order[:PAGE] if parted[t] < 0],
            more_in_second=[f"{t} {parted[t]:+.2f}" for t in order[::-1][:PAGE] if parted[t] > 0],
        )

    return [_told(each) for each in (list_transcripts, search, open_transcript, detect, compare)]


def pair_tools(pair: Pair) -> list[Callable[..., Any]]:
    """Tools that run a pair."""

    def explain(text: str, last: int = 8) -> Explained:
        """What the target is thinking at the last tokens of a text."""
        _check_text(text)
        reading = pair.explain(text, last=min(max(last, 1), PAGE * 3))
        rows = [
            Cited(
                cite=f"text:{each.position}",
                explanation=each.explanation,
                fidelity=each.fidelity if each.baseline == "training_mean" else None,
                around=each.token,
            )
            for each in reading.tokens
        ]
        return Explained(readings=rows, notices=list(reading.notices))

    def describe_difference(first: str, second: str) -> Explained:
        """What the target thinks at the end of the second text and not at the end of the first."""
        vectors = []
        for text in (first, second):
            _check_text(text)
            encoded = pair.encode(text)
            vectors.append(pair.engine.extract(encoded, [len(encoded.ids) - 1])[0])
        reading = pair.describe(vectors[1] - vectors[0])
        row = reading.tokens[0]
        cited = Cited(cite="second - first", explanation=row.explanation, fidelity=None, around="")
        return Explained(
            readings=[cited], notices=[f"cosine of the reconstruction {row.cosine:.2f}"]
        )

    def steer(
        text: str, replace: str, by: str, position: int = -1, alpha: float = STRENGTH
    ) -> Steering:
        """Replace a word in the explanation at a token, and continue the text with that change from
        the token on."""
        _check_text(text)
        made = pair.steer(text, position, {replace: by}, alpha)
        return Steering(
            explanation=made.original,
            edited=made.edited,
            without_change=made.plain,
            with_change=made.steered,
        )

    return [_told(each) for each in (explain, describe_difference, steer)]


def _told(tool: Callable[..., Any]) -> Callable[..., Any]:
    """A tool whose errors for people reach the model in words, without a trace."""

    @wraps(tool)
    def call(*arguments: Any, **options: Any) -> Any:
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            return tool(*arguments, **options)
        except UserError as error:
            raise ToolError(str(error)) from error
        except ValueError as error:  # settings of a detector that do not go together
            raise ToolError(f"Invalid settings: {error}") from error

    return call


def _cited(row: ReadingRow, around: str) -> Cited:
    return Cited(
        cite=f"{row.transcript}:{row.position}",
        explanation=row.explanation,
        fidelity=row.fidelity,
        around=around or row.token,
    )


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(f"The text has {len(text):,} characters; at most {MAX_TEXT:,} are read.")


def _start(cursor: str) -> int:
    if cursor and not cursor.isdecimal():
        raise InputError(f"The cursor {cursor!r} is none of ours. Give next_cursor as it came.")
    return int(cursor or 0)


def _page(cursor: str, total: int, size: int) -> tuple[int, str]:
    start = _start(cursor)
    if start and start >= total:
        raise InputError(f"The cursor {cursor!r} is past the end ({total}).")
    return start, f"{min(start + 1, total)} to {min(start + size, total)} of {total}"


def _next(start: int, size: int, total: int) -> str:
    return str(start + size) if start + size < total else ""


def _term_rates(rows: Sequence[ReadingRow]) -> Counter[str]:
    """Share of readings that have each term."""
    counts = Counter(term for row in rows for term in terms(row.explanation))
    made: Counter[str] = Counter()
    made.update({term: count / len(rows) for term, count in counts.items()})  # pyright: ignore
    return made
