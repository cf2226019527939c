"""Saved readings: one SQLite file with a full-text index.

A reading that was acknowledged is on the disk: WAL with synchronous=FULL.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from nlakit.errors import CheckpointError

from .queue import now

log = logging.getLogger("nlakit.serve")
DATABASE_NAME = "readings.sqlite3"
BUSY_S = 2.0
"""How long to wait for another process that writes."""
INDEXED_CHARS = 1_000_000
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS readings (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    created TEXT NOT NULL,
    reading TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (content, tokenize = 'unicode61');
"""


class Saved(NamedTuple):
    """A reading's head, and the reading itself where it was asked for."""

    id: str
    title: str
    created: str
    reading: dict[str, Any] | None = None


class ReadingStore:
    """The readings in one directory. Any thread may call; calls take turns.

    Raises:
        CheckpointError: the directory cannot be written, or the file is not ours.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / DATABASE_NAME
        self._lock = threading.Lock()
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise CheckpointError(
                f"Saved readings cannot be kept in {self._path}: {error}. "
                "Set NLAKIT_DATA_DIR to a directory that can be written."
            ) from error

    def _open(self) -> None:
        """Open the file, which nobody but its owner can read."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(self._path, 0o600)
        self._connection = sqlite3.connect(self._path, timeout=BUSY_S, check_same_thread=False)
        self._connection.isolation_level = None
        self._prepare(self._path)
        self._file = _identity(self._path)

    def _prepare(self, path: Path) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise CheckpointError(
                f"{path} was written by another nlakit (version {version}, this one knows "
                f"{SCHEMA_VERSION}). Update nlakit, or set NLAKIT_DATA_DIR to another directory."
            )
        self._connection.executescript(SCHEMA)
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, title: str, reading: dict[str, Any], deadline: float = math.inf) -> Saved:
        """Save a reading. When this returns, it is on the disk.

        Args:
            deadline: on the clock of `queue.now`; nothing is written after it.
        """
        saved = Saved(secrets.token_hex(12), title, datetime.now(UTC).isoformat(), reading)
        body = json.dumps(reading, separators=(",", ":"))
        with self._transaction("IMMEDIATE", deadline) as run:
            cursor = run.execute(
                "INSERT INTO readings (id, title, created, reading) VALUES (?, ?, ?, ?)",
                (saved.id, title, saved.created, body),
            )
            content = "\n".join([title, *strings_of(reading)])[:INDEXED_CHARS]
            run.execute(
                "INSERT INTO words (rowid, content) VALUES (?, ?)",
                (cursor.lastrowid, content.encode("utf-8", "replace").decode()),
            )
        return saved

    def find(self, query: str, limit: int, offset: int) -> tuple[list[Saved], int]:
        """Readings that hold all words of the query (the last may be cut), the newest first; and
        how many there are. An empty query finds all."""
        match = match_expression(query)
        if query.strip() and not match:
            return [], 0
        where = "WHERE number IN (SELECT rowid FROM words WHERE words MATCH ?)" if match else ""
        values = [match] if match else []
        with self._transaction() as run:
            total = run.execute(f"SELECT count(*) FROM readings {where}", values).fetchone()[0]
            rows = run.execute(
                f"SELECT id, title, created FROM readings {where} "
                "ORDER BY number DESC LIMIT ? OFFSET ?",
                [*values, limit, offset],
            ).fetchall()
        return [Saved(*row) for row in rows], total

    def get(self, reading_id: str) -> Saved | None:
        """One reading."""
        with self._transaction() as run:
            row = run.execute(
                "SELECT id, title, created, reading FROM readings WHERE id = ?", [reading_id]
            ).fetchone()
        return None if row is None else Saved(row[0], row[1], row[2], json.loads(row[3]))

    def delete(self, reading_id: str, deadline: float = math.inf) -> bool:
        """Forget one; False: there was none."""
        with self._transaction("IMMEDIATE", deadline) as run:
            row = run.execute("SELECT number FROM readings WHERE id = ?", [reading_id]).fetchone()
            if row is None:
                return False
            run.execute("DELETE FROM readings WHERE number = ?", row)
            run.execute("DELETE FROM words WHERE rowid = ?", row)
        return True

    @contextmanager
    def _transaction(
        self, kind: str = "DEFERRED", deadline: float = math.inf
    ) -> Iterator[sqlite3.Connection]:
        """All or nothing, on the disk when it is left.

        Args:
            kind: "IMMEDIATE" for one that writes: it waits for other processes at its start, where
                one that has begun to read is refused at once.
        """
        with self._lock:
            self._reopen_where_removed()
            self._connection.execute(f"BEGIN {kind}")
            try:
                if now() > deadline:
                    raise sqlite3.OperationalError("the database was locked for too long")
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if _identity(self._path) != self._file:
                raise sqlite3.OperationalError(f"{self._path} was removed meanwhile")

    def _reopen_where_removed(self) -> None:
        """What is saved into a file that has no name any more is lost with the process."""
        if _identity(self._path) == self._file:
            return
        log.warning("%s was removed or replaced: it is opened again", self._path)
        self._connection.close()
        try:
            self._open()
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a name stands for; None: it stands for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def match_expression(query: str) -> str:
    """An FTS5 expression for the words of a query; nothing in it is syntax."""
    words = re.findall(r"\w+", query)
    quoted = [f'"{word}"' for word in words]
    return " ".join(quoted) + "*" if quoted else ""


def strings_of(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys left out."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))
