"""Dashboards in one SQLite file: found by number, by explanation, by example and by text."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nlakit.config import FrozenModel
from nlakit.errors import CheckpointError, InputError

from .dashboard import Dashboard, DirectionReading
from .features import TextFeatures

STORE_NAME = "dashboards.sqlite"
FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dashboards (
    latent INTEGER PRIMARY KEY, density REAL NOT NULL, label TEXT, json TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    label, promoted, examples, tokenize = 'porter unicode61'
);
"""
WORDS_PER_EXAMPLE = 8
"""Tokens around the peak of an example that a search finds it by."""


class Found(FrozenModel):
    """A latent that a search has found."""

    latent: int
    label: str | None
    density: float
    score: float
    """Higher is better; of what, the search says."""


class DashboardStore:
    """See the module. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open a store, or make one; `path` may be the directory that it lies in.

        Raises:
            CheckpointError: the file is of something else.
        """
        self.path = path / STORE_NAME if path.is_dir() else path
        try:
            self.connection = sqlite3.connect(self.path)
            self.connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise CheckpointError(f"{self.path} is not a store of dashboards: {error}.") from error
        found = self.about().get("format")
        if found not in (None, str(FORMAT)):
            raise CheckpointError(f"{self.path} has format {found}; this nlakit reads {FORMAT}.")

    def __enter__(self) -> DashboardStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def about(self) -> dict[str, str]:
        """What the dashboards are of: the autoencoder, its target, the texts."""
        return dict(self.connection.execute("SELECT key, value FROM about"))

    def write(self, dashboards: Iterable[Dashboard], about: Mapping[str, str]) -> int:
        """Put dashboards in, in the place of those of the same latents; returns how many."""
        count = 0
        with self._transaction() as database:
            rows = {**about, "format": str(FORMAT)}
            database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows.items())
            for each in dashboards:
                _put(database, each)
                count += 1
        return count

    def dashboard(self, latent: int) -> Dashboard:
        """One dashboard. Raises `InputError` where there is none."""
        query = "SELECT json FROM dashboards WHERE latent = ?"
        row = self.connection.execute(query, (latent,)).fetchone()
        if row is None:
            raise InputError(f"{self.path} has no dashboard of latent {latent}.")
        return Dashboard.model_validate_json(row[0])

    def __iter__(self) -> Iterator[Dashboard]:
        for (text,) in self.connection.execute("SELECT json FROM dashboards ORDER BY latent"):
            yield Dashboard.model_validate_json(text)

    def labels(self) -> dict[int, str]:
        """Labels of the latents that have one."""
        query = "SELECT latent, label FROM dashboards WHERE label IS NOT NULL"
        return dict(self.connection.execute(query))

    def set_labels(self, labels: Mapping[int, str]) -> None:
        """Name latents. Raises `InputError` for one without a dashboard."""
        with self._transaction() as database:
            for latent, label in labels.items():
                renamed = self.dashboard(latent).model_copy(update={"label": label})
                _put(database, renamed)

    def keep_readings(self, readings: Sequence[DirectionReading]) -> int:
        """Keep what an NLA said of directions, in the place of what was said of the same vectors.

        Returns how many were kept: those of latents that have a dashboard.
        """
        known = {latent for (latent,) in self.connection.execute("SELECT latent FROM dashboards")}
        kept = [each for each in readings if each.latent in known]
        with self._transaction() as database:
            for each in kept:
                found = self.dashboard(each.latent)
                others = (old for old in found.readings if old.vector != each.vector)
                _put(database, found.model_copy(update={"readings": (*others, each)}))
        return len(kept)

    def search(self, query: str, limit: int = 20) -> list[Found]:
        """Latents whose label, promoted tokens or examples have the words; the label counts most.

        Words are found by their stems, in any order; score: BM25.
        """
        words = re.findall(r"\w+", query)
        if not words:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        ranked = """
            SELECT d.latent, d.label, d.density, -bm25(words, 10.0, 2.0, 1.0) AS score
            FROM words JOIN dashboards d ON d.latent = words.rowid
            WHERE words MATCH ? ORDER BY score DESC LIMIT ?
        """
        rows = self.connection.execute(ranked, (asked, limit))
        return [Found(latent=r[0], label=r[1], density=r[2], score=r[3]) for r in rows]

    def search_by_text(self, features: TextFeatures, limit: int = 20) -> list[Found]:
        """Latents that are active in a text, those first that are strong for what they ever are.

        Score: the largest activation in the text over the largest in the dashboard's texts.
        """
        strongest: dict[int, float] = {}
        for token in features.tokens:
            for each in token.features:
                strongest[each.index] = max(each.activation, strongest.get(each.index, 0.0))
        found = []
        for latent, value in strongest.items():
            query = "SELECT label, density, json FROM dashboards WHERE latent = ?"
            row = self.connection.execute(query, (latent,)).fetchone()
            if row is not None:
                most = json.loads(row[2])["max_activation"] or 1.0
                score = value / most
                found.append(Found(latent=latent, label=row[0], density=row[1], score=score))
        return sorted(found, key=lambda each: -each.score)[:limit]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self.connection:
            yield self.connection


def _put(database: sqlite3.Connection, dashboard: Dashboard) -> None:
    latent, label = dashboard.latent, dashboard.label
    database.execute(
        "INSERT OR REPLACE INTO dashboards VALUES (?, ?, ?, ?)",
        (latent, dashboard.density, label, dashboard.model_dump_json()),
    )
    promoted = " ".join(each.token for each in dashboard.promoted)
    examples = " ".join(
        "".join(each.tokens[max(0, each.peak - WORDS_PER_EXAMPLE) : each.peak + 2])
        for each in dashboard.examples
    )
    database.execute("DELETE FROM words WHERE rowid = ?", (latent,))
    database.execute(
        "INSERT INTO words (rowid, label, promoted, examples) VALUES (?, ?, ?, ?)",
        (latent, label or "", promoted, examples),
    )
