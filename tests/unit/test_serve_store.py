"""Saved readings."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.serving import WAIT_S, ScriptedEngine, client_for, scripted_nla, until

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


# -- other processes, other users ------------------------------------------------------------------
def test_nobody_else_can_read_what_was_saved(tmp_path):
    directory = tmp_path / "new" / "data"
    old = os.umask(0)
    try:
        store = ReadingStore(directory)
        store.add("a", {})
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(modes) > 1 and set(modes.values()) == {0o600}
    (directory / DATABASE_NAME).chmod(0o644)
    ReadingStore(directory).close()
    assert stat.S_IMODE((directory / DATABASE_NAME).stat().st_mode) == 0o600


class Meanwhile:
    """A database of which another server is told between a look-up and what follows from it."""

    def __init__(self, connection, happens) -> None:
        self.connection, self.happens = connection, happens

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, text, *values):
        found = self.connection.execute(text, *values)
        if text.startswith("SELECT number"):
            self.happens()
        return found


def test_two_servers_in_one_directory_save_and_delete(tmp_path, monkeypatch):
    monkeypatch.setattr("nlakit.serve.store.BUSY_S", 0.0)
    first, second = ReadingStore(tmp_path), ReadingStore(tmp_path)
    ours, refused = first.add("ours", {}), []

    def save() -> None:
        # Where it may, it writes what the deletion has read; else it is told to wait.
        try:
            second.add("theirs", {})
        except sqlite3.OperationalError as error:
            refused.append(str(error))

    first._connection = Meanwhile(first._connection, save)  # pyright: ignore[reportAttributeAccessIssue]
    assert first.delete(ours.id)
    assert refused == ["database is locked"]
    save()
    assert [each.title for each in first.find("", 5, 0)[0]] == ["theirs"]
    first.close()
    second.close()


@pytest.mark.parametrize("how", ["removed", "replaced", "directory"])
def test_what_is_saved_after_the_file_was_removed_is_on_the_disk(tmp_path, how):
    store = ReadingStore(tmp_path / "data")
    store.add("before", {})
    if how == "directory":
        shutil.rmtree(tmp_path / "data")
    else:
        for each in (tmp_path / "data").iterdir():
            each.unlink()
    if how == "replaced":
        ReadingStore(tmp_path / "data").close()
    saved = store.add("after", {})
    again = ReadingStore(tmp_path / "data")
    assert again.get(saved.id) == saved and again.find("", 5, 0)[1] == 1
    again.close()
    store.close()


def test_a_file_removed_while_it_is_written_acknowledges_nothing(tmp_path):
    store = ReadingStore(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="removed"), store._transaction():
        (tmp_path / DATABASE_NAME).unlink()
    store.close()


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A client of a server whose file another process writes, and that process."""
    monkeypatch.setattr("nlakit.serve.store.BUSY_S", 0.05)
    with client_for(scripted_nla(ScriptedEngine()), tmp_path) as client:
        blocker = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        yield client, blocker
        blocker.close()


def test_a_locked_file_does_not_hold_up_prompts(locked, monkeypatch):
    client, blocker = locked
    monkeypatch.setattr("nlakit.serve.service.STORAGE_S", WAIT_S)
    gate, add = threading.Event(), ReadingStore.add
    monkeypatch.setattr(ReadingStore, "add", lambda *args: gate.wait(WAIT_S) and add(*args))
    body = {"title": "a", "reading": {}}
    with ThreadPoolExecutor(8) as pool:
        saves = [pool.submit(client.post, "/v1/readings", json=body) for _ in range(8)]
        until(lambda: len(client.app.state.service.storage._turns) == 7)
        assert client.post("/tokenize", json={"text": "a"}).status_code == 200
        assert not any(save.done() for save in saves)
        blocker.execute("ROLLBACK")
        gate.set()
        assert {save.result().status_code for save in saves} == {201}


def test_who_saves_into_a_locked_file_is_told_so_and_nothing_is_saved(locked, monkeypatch):
    client, blocker = locked
    monkeypatch.setattr("nlakit.serve.service.STORAGE_S", 0.2)
    body = {"title": "a", "reading": {}}
    with ThreadPoolExecutor(24) as pool:
        refused = list(pool.map(lambda _: client.post("/v1/readings", json=body), range(20)))
        assert {each.status_code for each in refused} <= {503, 429}
        assert all(int(each.headers["Retry-After"]) > 0 for each in refused)
    blocker.execute("ROLLBACK")
    monkeypatch.undo()
    assert client.post("/v1/readings", json=body).status_code == 201
    assert client.get("/v1/readings").json()["total"] == 1
