"""The index of a project: one SQLite file with full-text search (FTS5) over explanations.

Knows nothing of models.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from nlakit.errors import InputError

SCHEMA = """
CREATE TABLE IF NOT EXISTS transcripts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL,
    num_tokens INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    notes TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS readings (
    id INTEGER PRIMARY KEY,
    transcript INTEGER NOT NULL REFERENCES transcripts (number),
    position INTEGER NOT NULL,
    sample INTEGER NOT NULL,
    token TEXT NOT NULL,
    char_start INTEGER NOT NULL,
    char_end INTEGER NOT NULL,
    role TEXT,
    section TEXT,
    message_index INTEGER,
    explanation TEXT NOT NULL,
    closed INTEGER NOT NULL,
    fidelity REAL,
    cosine REAL,
    mse REAL,
    confidence REAL,
    batch INTEGER NOT NULL,
    row INTEGER NOT NULL,
    UNIQUE (transcript, position, sample)
);
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    explanation, content='readings', content_rowid='id', tokenize='porter unicode61'
);
CREATE TRIGGER IF NOT EXISTS readings_added AFTER INSERT ON readings BEGIN
    INSERT INTO words (rowid, explanation) VALUES (new.id, new.explanation);
END;
"""
READING_COLUMNS = (
    *("transcript", "position", "sample", "token", "char_start", "char_end"),
    *("role", "section", "message_index", "explanation", "closed"),
    *("fidelity", "cosine", "mse", "confidence", "batch", "row"),
)
WORD = re.compile(r"\w+")


class Filters(NamedTuple):
    """Which readings count; None: all.

    Attributes:
        transcript: id or name of one.
        first_sample: only the first sample of each position.
    """

    transcript: str | None = None
    role: str | None = None
    section: str | None = None
    min_fidelity: float | None = None
    min_confidence: float | None = None
    first_sample: bool = False

    def where(self) -> tuple[str, list[Any]]:
        """A condition over `readings r` and `transcripts t`, and its values."""
        tests: list[tuple[str, list[Any]]] = [
            ("(t.id = ? OR t.name = ?)", [self.transcript] * 2 if self.transcript else []),
            ("r.role = ?", [self.role] if self.role else []),
            ("r.section = ?", [self.section] if self.section else []),
            ("r.fidelity >= ?", [] if self.min_fidelity is None else [self.min_fidelity]),
            ("r.confidence >= ?", [] if self.min_confidence is None else [self.min_confidence]),
        ]
        asked = [(test, values) for test, values in tests if values]
        texts = [test for test, _ in asked] + (["r.sample = 0"] if self.first_sample else [])
        return " AND ".join(texts) or "1", [value for _, values in asked for value in values]


EVERYTHING = Filters()


class TranscriptRow(NamedTuple):
    """A transcript of the index."""

    number: int
    id: str
    name: str
    source: str
    text: str
    num_tokens: int
    metadata: dict[str, Any]
    notes: list[str]


class ReadingRow(NamedTuple):
    """A reading of the index; `transcript` is the id of its transcript."""

    id: int
    transcript: str
    name: str
    position: int
    sample: int
    token: str
    char_start: int
    char_end: int
    role: str | None
    section: str | None
    message_index: int | None
    explanation: str
    closed: bool
    fidelity: float | None
    cosine: float | None
    confidence: float | None
    batch: int
    row: int


_READING = (
    "SELECT r.id, t.id, t.name, r.position, r.sample, r.token, r.char_start, r.char_end, r.role, "
    "r.section, r.message_index, r.explanation, r.closed, r.fidelity, r.cosine, r.confidence, "
    "r.batch, r.row FROM readings r JOIN transcripts t ON t.number = r.transcript"
)


class Index:
    """A connection. Raises `InputError` where the file is no index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, timeout=30.0)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(f"{path} is no index of readings: {error}.") from error

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # -- writing -----------------------------------------------------------------------------------
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        with self._db:
            yield

    def add_batch(
        self,
        number: int,
        transcripts: Iterable[Mapping[str, Any]],
        readings: Sequence[Mapping[str, Any]],
    ) -> None:
        """Take in a batch, with its mark. `readings` name their transcript by its id."""
        with self.transaction():
            for each in transcripts:
                self._db.execute(
                    "INSERT OR IGNORE INTO transcripts "
                    "(id, name, source, text, num_tokens, metadata, notes) VALUES (?,?,?,?,?,?,?)",
                    [
                        *(each[n] for n in ("id", "name", "source", "text", "num_tokens")),
                        *(each["metadata"], each["notes"]),
                    ],
                )
            numbers = dict(self._db.execute("SELECT id, number FROM transcripts"))
            marks = ",".join("?" * len(READING_COLUMNS))
            self._db.executemany(
                f"INSERT INTO readings ({','.join(READING_COLUMNS)}) VALUES ({marks})",
                (
                    [numbers[each["transcript"]], *(each[n] for n in READING_COLUMNS[1:])]
                    for each in readings
                ),
            )
            self._db.execute("INSERT INTO batches VALUES (?, ?)", (number, len(readings)))

    # -- reading -----------------------------------------------------------------------------------
    def batches(self) -> dict[int, int]:
        """Number and rows of each batch that is in the index."""
        return dict(self._db.execute("SELECT number, rows FROM batches ORDER BY number"))

    def counts(self) -> tuple[int, int]:
        """How many transcripts and readings there are."""
        (transcripts,) = self._db.execute("SELECT count(*) FROM transcripts").fetchone()
        (readings,) = self._db.execute("SELECT count(*) FROM readings").fetchone()
        return transcripts, readings

    def positions_read(self, transcript: str) -> set[int]:
        """Positions of a transcript that are read already."""
        found = self._db.execute(
            "SELECT DISTINCT r.position FROM readings r JOIN transcripts t "
            "ON t.number = r.transcript WHERE t.id = ?",
            [transcript],
        )
        return {position for (position,) in found}

    def transcripts(self) -> list[TranscriptRow]:
        """All transcripts, in the order in which they came."""
        found = self._db.execute("SELECT * FROM transcripts ORDER BY number")
        return [_transcript(row) for row in found]

    def transcript_page(self, limit: int, offset: int) -> list[tuple[str, str, int, int]]:
        """(id, name, tokens, positions read) of some transcripts, in the order in which they
        came."""
        query = (
            "SELECT t.id, t.name, t.num_tokens, count(DISTINCT r.position) FROM transcripts t "
            "LEFT JOIN readings r ON r.transcript = t.number GROUP BY t.number "
            "ORDER BY t.number LIMIT ? OFFSET ?"
        )
        return list(self._db.execute(query, [limit, offset]))

    def transcript(self, name: str) -> TranscriptRow:
        """A transcript by its id, its name, or the start of its id.

        Raises:
            InputError: there is none, or several have that name.
        """
        query = "SELECT * FROM transcripts WHERE id = ? OR name = ? ORDER BY number"
        found = self._db.execute(query, [name, name]).fetchall()
        if not found and len(name) >= 4:
            like = f"{name.replace('%', '').replace('_', '')}%"
            found = self._db.execute(
                "SELECT * FROM transcripts WHERE id LIKE ? ORDER BY number", [like]
            ).fetchall()
        if len(found) == 1:
            return _transcript(found[0])
        if found:
            ids = ", ".join(row[1] for row in found[:5])
            raise InputError(f"{len(found)} transcripts are called {name!r}. Give an id: {ids}.")
        raise InputError(f"There is no transcript {name!r} in {self.path.parent}.")

    def readings(self, filters: Filters = EVERYTHING) -> list[ReadingRow]:
        """Readings in the order of transcripts, positions and samples."""
        where, values = filters.where()
        order = "ORDER BY r.transcript, r.position, r.sample"
        return [
            _reading(row) for row in self._db.execute(f"{_READING} WHERE {where} {order}", values)
        ]

    def by_ids(self, ids: Sequence[int]) -> list[ReadingRow]:
        """Readings by their numbers, in that order."""
        marks = ",".join("?" * len(ids))
        found = self._db.execute(f"{_READING} WHERE r.id IN ({marks})", list(ids))
        rows = {row[0]: _reading(row) for row in found}
        return [rows[each] for each in ids if each in rows]

    def ids(self, filters: Filters = EVERYTHING) -> list[int]:
        """Numbers of readings, ascending."""
        where, values = filters.where()
        query = (
            "SELECT r.id FROM readings r JOIN transcripts t ON t.number = r.transcript "
            f"WHERE {where} ORDER BY r.id"
        )
        return [each for (each,) in self._db.execute(query, values)]

    def explanations(self, after: int = 0) -> list[tuple[int, str]]:
        """(number, explanation) of readings behind a number, ascending."""
        query = "SELECT id, explanation FROM readings WHERE id > ? ORDER BY id"
        return list(self._db.execute(query, [after]))

    def search(
        self, query: str, limit: int, filters: Filters = EVERYTHING
    ) -> list[tuple[int, float]]:
        """(number, score) of the readings that say the words, best first; the score is -bm25.

        Several words: those with all of them come first, then those with some. A quoted phrase is
        one word.

        Raises:
            InputError: the query holds no word.
        """
        terms = quoted_terms(query)
        if not terms:
            raise InputError(f"The query {query!r} holds no word to look for.")
        where, values = filters.where()
        found: dict[int, float] = {}
        for joint in (" AND ", " OR "):
            rows = self._db.execute(
                "SELECT r.id, -bm25(words) FROM words JOIN readings r ON r.id = words.rowid "
                "JOIN transcripts t ON t.number = r.transcript "
                f"WHERE words MATCH ? AND {where} ORDER BY bm25(words), r.id LIMIT ?",
                [joint.join(terms), *values, limit],
            )
            for number, score in rows:
                found.setdefault(number, score)
            if len(terms) == 1 or len(found) >= limit:
                break
        return list(found.items())[:limit]


def quoted_terms(query: str) -> list[str]:
    """The words and quoted phrases of a query, as FTS5 takes them: nothing in them is a command."""
    terms = []
    for phrase, word in re.findall(r'"([^"]+)"|(\S+)', query):
        words = WORD.findall(phrase or word)
        if words:
            terms.append('"' + " ".join(words) + '"')
    return terms


def _transcript(row: Sequence[Any]) -> TranscriptRow:
    values = dict(zip(TranscriptRow._fields, row, strict=True))
    decoded = {name: json.loads(values[name]) for name in ("metadata", "notes")}
    return TranscriptRow(**{**values, **decoded})


def _reading(row: Sequence[Any]) -> ReadingRow:
    values = dict(zip(ReadingRow._fields, row, strict=True))
    return ReadingRow(**{**values, "closed": bool(values["closed"])})
