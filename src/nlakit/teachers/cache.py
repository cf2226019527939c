"""Every paid answer, by the hash of what was asked, in one SQLite file.

An answer is written before anything else is done with it, so a kill loses only what is in flight.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nlakit.errors import CheckpointError

from .chat import Answer

IN_MEMORY = Path(":memory:")
"""A cache that leaves no file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, teacher TEXT NOT NULL, text TEXT NOT NULL, outcome TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, teacher TEXT NOT NULL);
"""


def question_key(model: str, instruction: str, text: str) -> str:
    """Hex SHA-256 of all that decides an answer."""
    return hashlib.sha256(json.dumps([model, instruction, text]).encode()).hexdigest()


class Paid(NamedTuple):
    """Tokens read and written by a teacher, in all answers kept."""

    input_tokens: int
    output_tokens: int


class AnswerCache:
    """Answers on disk. For one thread at a time; several processes may share the file.

    Raises:
        CheckpointError: the file is not such a cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{self.path} is not a cache of answers: {error}. Give another --cache, or "
                "remove that file."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, key: str) -> Answer | None:
        """The answer kept under a key."""
        query = "SELECT text, outcome, input_tokens, output_tokens FROM answers WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        if row is None:
            return None
        text, outcome, read, written = row
        return Answer(text=text, outcome=outcome, input_tokens=read, output_tokens=written)

    def put(self, key: str, teacher: str, answer: Answer) -> None:
        """Keep an answer; one that is there already stays. Raises `OSError` on a full disk."""
        try:
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (key, teacher, *answer.model_dump().values()),
            )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise OSError(errno.ENOSPC, str(error), str(self.path)) from error

    def paid(self, teacher: str) -> Paid:
        """What all answers of a teacher took."""
        query = "SELECT total(input_tokens), total(output_tokens) FROM answers WHERE teacher = ?"
        read, written = self._db.execute(query, (teacher,)).fetchone()
        return Paid(int(read), int(written))

    # -- batches that were sent and not yet fetched ------------------------------------------------
    def pending_batches(self, teacher: str) -> list[str]:
        """Ids of the batches that a killed run left behind."""
        rows = self._db.execute("SELECT id FROM batches WHERE teacher = ?", (teacher,))
        return [row[0] for row in rows]

    def add_batch(self, batch: str, teacher: str) -> None:
        """Note a batch as sent."""
        self._db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?)", (batch, teacher))

    def finish_batch(self, batch: str, teacher: str, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keep a batch's answers and forget the batch, both or neither."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for key, answer in answers:
                self.put(key, teacher, answer)
            self._db.execute("DELETE FROM batches WHERE id = ?", (batch,))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
