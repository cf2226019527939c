"""Saved readings."""

from __future__ import annotations

import sqlite3

import pytest

from nlakit.errors import CheckpointError
from nlakit.serve.store import DATABASE_NAME, ReadingStore, match_expression, strings_of


@pytest.fixture
def store(tmp_path):
    made = ReadingStore(tmp_path / "new" / "deep")
    yield made
    made.close()


def test_what_was_saved_is_read_back(store):
    reading = {"text": "漢字 \x00 🐈", "tokens": [{"explanation": "a", "fidelity": 0.5}]}
    saved = store.add("title", reading)
    assert store.get(saved.id) == saved and saved.reading == reading
    assert store.get("0" * 24) is None


def test_search_finds_words_of_title_and_explanations(store):
    first = store.add("The rhyme", {"tokens": [{"explanation": "A calm tale of Odile"}]})
    second = store.add("The sum", {"tokens": [{"explanation": "It comes to 13"}]})
    ids = lambda q: [each.id for each in store.find(q, 20, 0)[0]]  # noqa: E731
    assert ids("") == [second.id, first.id]
    assert ids("odile calm") == [first.id] and ids("rhy") == [first.id]
    assert ids("odile 13") == [] and ids("explanation") == []
    assert ids("!!") == []


@pytest.mark.parametrize(
    "query", ['"', "a OR b", "NEAR(", "title:x", "*", "^a", "-a", "a\x00b", "';--", "\ud800"]
)
def test_no_query_is_syntax(store, query):
    store.add("a", {})
    assert store.find(query, 5, 0)[1] in (0, 1)


def test_pages(store):
    ids = [store.add(f"t{number}", {}).id for number in range(5)]
    found, total = store.find("", 2, 1)
    assert ([each.id for each in found], total) == ([ids[3], ids[2]], 5)


def test_a_deleted_reading_is_not_found(store):
    saved = store.add("unique", {})
    assert store.delete(saved.id) and not store.delete(saved.id)
    assert store.get(saved.id) is None and store.find("unique", 5, 0) == ([], 0)


def test_a_failed_write_leaves_nothing_behind(store):
    with pytest.raises(sqlite3.Error):
        store._connection.execute("DROP TABLE words")
        store.add("half", {})
    assert store._connection.execute("SELECT count(*) FROM readings").fetchone() == (0,)


def test_a_file_of_another_version_or_kind_is_refused(tmp_path):
    ReadingStore(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(CheckpointError, match="version 7"):
        ReadingStore(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / DATABASE_NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(CheckpointError, match="NLAKIT_DATA_DIR"):
        ReadingStore(tmp_path / "other")


def test_match_expression():
    assert match_expression('the "cat" OR') == '"the" "cat" "OR"*'
    assert match_expression(" -- ") == ""


def test_strings_in_order():
    assert list(strings_of({"a": "1", "b": ["2", {"c": "3", "d": 4}]})) == ["1", "2", "3"]
