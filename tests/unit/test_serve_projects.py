"""Audit projects behind HTTP: what the page's desk asks for."""

from __future__ import annotations

import pytest
import torch
from support.audit import FakeEmbedder, project_of
from support.serving import ScriptedEngine, client_for, scripted_nla

from nlakit.audit import thought_map
from nlakit.errors import CheckpointError, InputError
from nlakit.serve import desk as module
from nlakit.serve.desk import open_desks

TEXT = " ".join(f"word{n}" for n in range(23)) + " bread"
TURNS = ["A boat at sea."] * 12 + ["Bread and flour of a baker."] * 12


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A server with one project of two transcripts."""
    project_of(tmp_path / "mine", {"turns": (TEXT, TURNS), "calm": (TEXT, TURNS[:1])})
    rows = torch.eye(4)[[0 if n < 12 else 1 for n in range(24)]]
    monkeypatch.setattr(thought_map, "vectors_of", lambda project, found: rows[: len(found)])
    monkeypatch.setattr(module, "embedder", lambda *a, **k: FakeEmbedder())
    nla = scripted_nla(ScriptedEngine())
    with client_for(nla, tmp_path / "data", projects=(tmp_path / "mine",)) as made:
        yield made


def test_projects_and_their_transcripts_are_listed(client):
    (head,) = client.get("/v1/projects").json()["projects"]
    assert head == {
        **{"name": "mine", "nla": "made up", "layer": 1},
        **{"transcripts": 2, "readings": 25},
    }
    page = client.get("/v1/projects/mine/transcripts?limit=1&offset=1").json()
    assert page["total"] == 2
    assert page["transcripts"] == [
        {"id": "calm-id", "name": "calm", "num_tokens": 24, "readings": 1}
    ]


def test_all_thoughts_are_searched_by_words_and_by_meaning(client):
    (first, *rest) = client.get("/v1/projects/mine/search?q=baker").json()["results"]
    assert (first["name"], first["position"], first["token"]) == ("turns", 12, "word12")
    assert first["before"].endswith("word11 ") and first["after"].startswith(" word13")
    assert len(rest) == 11
    near = client.get("/v1/projects/mine/search?q=loaf&meaning=true&limit=1").json()["results"]
    assert near[0]["explanation"] == TURNS[-1]


def test_a_transcript_opens_on_its_thought_map(client):
    made = client.get("/v1/projects/mine/transcripts/turns").json()
    assert (made["name"], made["text"], made["embedder"]) == ("turns", TEXT, "fake")
    assert [each["position"] for each in made["readings"] if each["pivot"]] == [12]
    last = made["readings"][-1]
    assert last["drift"] > 0.9 and TEXT[last["char_start"] : last["char_end"]] == "bread"


def test_one_reading_has_no_map(client):
    made = client.get("/v1/projects/mine/transcripts/calm").json()
    assert made["embedder"] is None and made["readings"][0]["drift"] is None


def test_phrases_are_asked_of_every_reading(client):
    made = client.get("/v1/projects/mine/detect?phrase=baker&phrase=flour").json()
    (hit,) = made["transcripts"]
    assert (hit["name"], hit["hits"], hit["positions"]) == ("turns", 12, list(range(12, 24)))
    assert made["any"] == 0.5 and made["labels"]["none"] == 1


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("other/transcripts", 404, "no such project"),
        ("mine/transcripts/nobody", 400, "no transcript"),
        ("mine/search?q=", 400, "empty"),
        ("mine/detect?phrase=%20", 400, "no phrase"),
    ],
)
def test_what_is_not_there_is_told(client, path, status, told):
    answer = client.get(f"/v1/projects/{path}")
    assert answer.status_code == status and told in answer.json()["detail"]


def test_a_corrupt_file_is_told_and_not_a_failure_of_the_server(client, monkeypatch):
    def corrupt(*_: object, **__: object) -> None:
        raise CheckpointError("mine/embeddings is corrupt. Remove it.")

    monkeypatch.setattr(module, "search", corrupt)
    answer = client.get("/v1/projects/mine/search?q=sea")
    assert answer.status_code == 400 and "Remove it" in answer.json()["detail"]


def test_a_secret_guards_projects(tmp_path):
    nla = scripted_nla(ScriptedEngine())
    with client_for(nla, tmp_path / "data", secret="s3cret") as made:
        assert made.get("/v1/projects").status_code == 401
        found = made.get("/v1/projects", headers={"X-SECRET-KEY": "s3cret"})
        assert found.json() == {"projects": []}


def test_two_projects_of_one_name_are_refused(tmp_path):
    paths = [tmp_path / side / "same" for side in "ab"]
    for path in paths:
        project_of(path, {"calm": (TEXT, TURNS[:1])})
    with pytest.raises(InputError, match=r"Two projects are called 'same'"):
        open_desks(paths)
