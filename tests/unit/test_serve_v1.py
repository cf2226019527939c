"""Our own interface: samples, seeds, claims, binary vectors, passages, saved readings, the spec."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load, save
from support.serving import D_MODEL, ScriptedEngine, client_for, scripted_nla

from nlakit.engines.remote import RemotePair
from nlakit.engines.wire import Connection
from nlakit.evals.probe_store import ProbeCard, ProbedKind, Probes
from nlakit.pair.pair import Pair
from nlakit.reading import ReadClaim
from nlakit.serve import openapi
from nlakit.serve.app import create_app
from nlakit.serve.settings import Settings
from nlakit.storyworld.grammar import document

VECTOR = [3.0, 4.0, *[0.0] * (D_MODEL - 2)]
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    engine = ScriptedEngine(words=lambda row: f"A story, sample {row.sample}")
    with client_for(scripted_nla(engine), tmp_path_factory.mktemp("data")) as found:
        yield found


# -- explain and describe --------------------------------------------------------------------------
def test_samples_fidelity_and_baseline(client):
    body = {"text": "the cat", "positions": [1], "samples": 3, "temperature": 1, "seed": 4}
    found = client.post("/v1/explain", json=body).json()
    assert (found["variance"], found["floors"], found["model"]) == (0.5, {"mean": 0.0}, "tiny")
    result = found["results"][0]
    said = [each["description"] for each in result["samples"]]
    assert said == [f"A story, sample {number}" for number in range(3)]
    # mse 0.8 over a variance of 0.5; of equals the first is shown.
    assert result["fidelity"] == pytest.approx(-0.6)
    assert result["word"] == "worse than knowing nothing"
    assert result["description"] == "A story, sample 0" and result["closed"] is True


@pytest.mark.parametrize(
    "bad",
    [{"samples": 0}, {"samples": 17}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}, {"seed": 2**63}],
)
def test_sampling_is_bounded(client, bad):
    for path, body in (("explain", {"text": "a"}), ("describe", {"activations": [VECTOR]})):
        assert client.post(f"/v1/{path}", json={**body, **bad}).status_code == 422


def test_too_many_positions(client):
    body = {"text": "a b c d " * 60, "positions": [0] * 513}
    assert client.post("/v1/explain", json=body).status_code == 422


def test_claims_are_checked_against_the_document(client):
    made = document(7, 3, "story")
    end = made.text.index(".", len(made.text) // 2) + 1
    reference = {"seed": 7, "index": 3, "genre": "story"}
    body = {"text": made.text[:end], "positions": [-1], "document": reference}
    claims = client.post("/v1/explain", json=body).json()["results"][0]["claims"]
    assert [(c["kind"], c["value"], c["verdict"]) for c in claims] == [("genre", "story", "true")]
    other = {**body, "document": {**reference, "genre": "sums"}}
    claims = client.post("/v1/explain", json=other).json()["results"][0]["claims"]
    assert claims[0]["verdict"] is None  # another document: nobody knows
    del body["document"]
    claims = client.post("/v1/explain", json=body).json()["results"][0]["claims"]
    unknown = {"verdict": None, "confidence": None, "probe": None}
    assert claims[0] == {"kind": "genre", "value": "story", "start": 2, "end": 7, **unknown}


def test_true_facts_that_are_not_said_stand_beside_the_claims(client):
    made = document(7, 3, "story")
    end = made.text.index(".", len(made.text) // 2) + 1
    reference = {"seed": 7, "index": 3, "genre": "story"}
    body = {"text": made.text[:end], "positions": [-1], "document": reference}
    (result,) = client.post("/v1/explain", json=body).json()["results"]
    said = {each["kind"] for each in result["claims"] if each["verdict"] == "true"}
    unsaid = {each["kind"]: each["value"] for each in result["unsaid"]}
    state = made.state(end)
    assert unsaid.keys() & state.facts.keys() and not unsaid.keys() & said
    assert all(unsaid[kind] == state.facts[kind] for kind in unsaid.keys() & state.facts.keys())
    del body["document"]
    (result,) = client.post("/v1/explain", json=body).json()["results"]
    assert result["unsaid"] is None


def test_claims_of_a_chat_are_placed_by_its_own_text(client):
    made = document(7, 5, "chat")
    turns = [{"role": m.role, "content": m.content} for m in made.messages[:2]]
    body = {
        "messages": turns,
        "positions": [-1],
        "document": {"seed": 7, "index": 5, "genre": "chat"},
    }
    claims = client.post("/v1/explain", json=body).json()["results"][0]["claims"]
    assert [(c["kind"], c["verdict"]) for c in claims] == [("genre", "false")]  # a chat, no story


def test_describe_reads_safetensors(client):
    vectors = torch.tensor([VECTOR, VECTOR]).bfloat16()
    raw = save({"vectors": vectors})
    found = client.post("/v1/describe?samples=2&temperature=1&seed=1", content=raw, headers=BINARY)
    results = found.json()["results"]
    assert [len(each["samples"]) for each in results] == [2, 2]
    assert [each["index"] for each in results] == [0, 1]
    assert results[0]["cosine_similarity"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"\x80\x04pickle", 400),
        (save({"other": torch.zeros(1, D_MODEL)}), 400),
        (save({"vectors": torch.zeros(1, D_MODEL, dtype=torch.int64)}), 400),
        (save({"vectors": torch.zeros(D_MODEL)}), 400),
        (save({"vectors": torch.zeros(0, D_MODEL)}), 400),
        (save({"vectors": torch.zeros(513, D_MODEL)}), 400),
        (save({"vectors": torch.zeros(1, 3)}), 400),
        (save({"vectors": torch.full((1, D_MODEL), float("nan"))}), 422),
    ],
)
def test_describe_refuses_other_bytes(client, raw, status):
    found = client.post("/v1/describe", content=raw, headers=BINARY)
    assert found.status_code == status and found.json()["detail"]


def test_describe_refuses_other_types_and_bad_json(client):
    headers = {"Content-Type": "text/plain"}
    assert client.post("/v1/describe", content=b"x", headers=headers).status_code == 415
    headers = {"Content-Type": "application/json"}
    for raw in (b"{", b"[]", b'{"activations": [[NaN]]}'):
        found = client.post("/v1/describe", content=raw, headers=headers)
        assert found.status_code == 422 and found.json()["detail"][0]["loc"][0] == "body"


def test_extract_in_both_forms(client):
    body = {"text": "the cat", "positions": [-1, 1]}
    plain = client.post("/v1/extract", json=body).json()["tokens"]
    raw = client.post("/v1/extract", json=body, headers={"Accept": "application/octet-stream"})
    tensors = load(raw.content)
    assert raw.headers["content-type"] == "application/octet-stream"
    assert tensors["vectors"].tolist() == [each["activation"] for each in plain]
    assert tensors["positions"].tolist() == [each["position"] for each in plain]
    assert tensors["token_ids"].tolist() == [each["token_id"] for each in plain]


# -- models, passages, health ----------------------------------------------------------------------
def test_models(client):
    (found,) = client.get("/v1/models").json()["models"]
    assert (found["name"], found["layer"], found["fve"]) == ("tiny", 1, 0.25)
    assert (found["max_tokens"], found["num_training_rows"]) == (512, 3)


def test_every_passage_shows_what_it_says(client):
    found = {each["id"]: each for each in client.get("/v1/passages").json()["passages"]}
    assert list(found) == ["rhyme", "sum", "count", "drill", "switch", "story"]
    wanted = {"rhyme": "rhyme", "sum": "sum", "count": "count", "switch": "switch"}
    for name, kind in wanted.items():
        made, char_end = placed(client, found[name])
        assert kind in made.state(char_end).planned, name
    made, char_end = placed(client, found["drill"])
    assert made.state(char_end).facts["drill"] == "yes"


def placed(client, passage):
    """A passage's document, and where in it the passage ends as the target reads it."""
    ref = passage["document"]
    made = document(ref["seed"], ref["index"], ref["genre"])
    body = {key: passage[key] for key in ("text", "messages") if passage[key]}
    text = client.post("/tokenize", json=body).json()["text"].removeprefix("<|bos|>")
    assert made.text.startswith(text)
    return made, len(text)


def test_health_and_metrics(client):
    found = client.get("/v1/health").json()
    assert (found["status"], found["rows_active"], found["requests"]) == ("ok", 0, 0)
    text = client.get("/metrics").text
    assert 'nlakit_rows_total{outcome="finished"}' in text and "nlakit_rows_active 0.0" in text


# -- saved readings --------------------------------------------------------------------------------
def test_readings_are_kept(client):
    reading = {"text": "it was Sunday", "deep": {"list": [1, None, "violet"]}}
    made = client.post("/v1/readings", json={"title": "mine", "reading": reading})
    head = made.json()
    assert made.status_code == 201 and list(head) == ["id", "title", "created"]
    path = f"/v1/readings/{head['id']}"
    assert client.get(path).json() == {**head, "reading": reading}
    assert client.get("/v1/readings?q=violet&limit=5").json() == {"readings": [head], "total": 1}
    assert client.delete(path).status_code == 204
    assert [client.get(path).status_code, client.delete(path).status_code] == [404, 404]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"title": "", "reading": {}}',
        b'{"title": "a", "reading": []}',
        b'{"title": "a", "reading": {"x": NaN}}',
        b'{"title": "a", "reading": {"x": "\\ud800"}}',
        b'{"title": "a", "reading": {"x": ' + b"[" * 80 + b"]" * 80 + b"}}",
        b'{"title": "' + b"a" * 201 + b'", "reading": {}}',
    ],
)
def test_readings_that_cannot_be_kept(client, raw):
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/readings", content=raw, headers=headers).status_code == 422


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "q=" + "a" * 201])
def test_reading_queries_are_bounded(client, query):
    assert client.get(f"/v1/readings?{query}").status_code == 422


# -- the description -------------------------------------------------------------------------------
def test_the_committed_description_is_fresh():
    committed = openapi.PATH.read_text(encoding="utf-8")
    assert committed == openapi.render(), "run: python -m nlakit.serve.openapi"


def test_the_served_description_is_the_committed_one_and_refers_to_nothing_else(client):
    served = client.get("/openapi.json").json()
    assert served == client.get("/v1/openapi.json").json()
    assert served == json.loads(openapi.PATH.read_text(encoding="utf-8"))
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(served))
    assert set(references) == set(served["components"]["schemas"]) and len(references) > 40


def test_every_path_documents_what_it_answers():
    spec = json.loads(openapi.PATH.read_text(encoding="utf-8"))
    for path, verbs in spec["paths"].items():
        for verb, operation in verbs.items():
            statuses = set(operation["responses"])
            if path != "/v1/health":
                assert {"401", "403"} <= statuses, (path, verb)
            if "requestBody" in operation:
                assert {"400", "413", "422"} <= statuses, (path, verb)
    text = json.dumps(spec)
    assert all(f"#/components/schemas/{name}" in text for name in ("Claim" + "Result", "Problem"))


def test_the_reference_for_people_has_every_path_and_reaches_out_to_nobody(client):
    response = client.get("/docs")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    page, spec = response.text, client.get("/openapi.json").json()
    for path, verbs in spec["paths"].items():
        for verb in verbs:
            assert f"<h2>{verb.upper()} {path}</h2>" in page
    assert "<code>completion_tokens</code>" in page and "X-SECRET-KEY" in page
    assert not re.search(r"https?://|<script|<style|style=|\son\w+=", page)
    assert client.get("/static/docs.css").status_code == 200


# -- probes ----------------------------------------------------------------------------------------
def test_each_claim_stands_beside_what_a_probe_reads(tmp_path):
    kinds = {"genre": ProbedKind(values=("chat", "sums"), accuracy=0.9, chance=0.5, num_test=8)}
    card = ProbeCard(target_sha256="", layer=1, num_train=9, kinds=kinds)
    weight_CD = torch.zeros(2, D_MODEL)
    weight_CD[1, 0] = 1.0
    engine = ScriptedEngine(words=lambda row: "A calm story" if row.sample else "A story")
    probes = Probes(card, weight_CD, torch.zeros(2))
    with client_for(scripted_nla(engine), tmp_path, probes=probes) as client:
        body = {"text": "the cat", "positions": [1], "samples": 2, "temperature": 1}
        result = client.post("/v1/explain", json=body).json()["results"][0]
        # The activation at token 1 is (2, 0, ...): "sums" by e² to 1.
        expected = {"value": "sums", "confidence": pytest.approx(0.8808, abs=1e-4)}
        expected |= {"accuracy": 0.9, "chance": 0.5}
        assert result["claims"][0]["probe"] == expected
        assert result["claims"][0]["confidence"] is None
        second = result["samples"][1]["claims"]
        assert [(each["kind"], each["probe"] is None) for each in second] == [
            ("mood", True),
            ("genre", False),
        ]
        found = client.post("/v1/describe", json={"activations": [[-2.0] + [0.0] * 7]}).json()
        assert found["results"][0]["claims"][0]["probe"]["value"] == "chat"


def test_a_calibrated_nla_says_how_likely_each_claim_is(tmp_path, monkeypatch):
    nla = scripted_nla(ScriptedEngine(words=lambda row: "A story"))
    asked = []

    def claims(_, completions, scores, temperature, vectors_ND=None):
        asked.append((len(completions), scores[0].cosine, temperature))
        return [(ReadClaim(kind="genre", value="story", start=2, end=7, confidence=0.93),)]

    monkeypatch.setattr(Pair, "claims", claims)
    known: Any = object()
    with client_for(replace(nla, confidence=known), tmp_path) as client:
        body = {"activations": [VECTOR], "temperature": 0.5}
        claim = client.post("/v1/describe", json=body).json()["results"][0]["claims"][0]
        assert (claim["kind"], claim["confidence"]) == ("genre", 0.93)
        assert asked == [(1, pytest.approx(1), 0.5)]
        client.post("/describe", json=body)  # the wire has no claims, and pays for none
        assert len(asked) == 1


# -- no baseline -----------------------------------------------------------------------------------
def test_nobody_grades_a_cosine(tmp_path):
    """The app of `create_app`, not the command line's alone; and whoever reads it remotely."""
    nla = scripted_nla(ScriptedEngine())
    bare = replace(nla, card=nla.card.model_copy(update={"baseline": "none", "variance": 2.0}))
    with client_for(bare, tmp_path) as client:
        body = {"activations": [VECTOR, [-x for x in VECTOR]], "temperature": 0}
        for row in client.post("/v1/describe", json=body).json()["results"]:
            assert row["word"] == "no baseline"
            assert row["fidelity"] == pytest.approx(row["cosine_similarity"])
        assert client.get("/v1/models").json()["models"][0]["scale"] is None
        remote = RemotePair("http://127.0.0.1:8000", connection=Connection("", client=client))
        score = remote.score("a thought", torch.tensor(VECTOR))
        assert score.word == "no baseline" and score.baseline == "none"


# -- an NLA of any model ---------------------------------------------------------------------------
@pytest.fixture
def any_text(tmp_path):
    """A served pair without a world, whose claims are about the text itself."""
    said = 'A chat about violet lamps. It stops at "Nat rowed"; next may come "home".'
    engine = ScriptedEngine(words=lambda row: said)
    pair = scripted_nla(engine)
    card = pair.card.model_copy(update={"claims": "text"})
    with TestClient(
        create_app(replace(pair, card=card), Settings(data_dir=tmp_path)),
        base_url="http://127.0.0.1:8000",
    ) as made:
        yield made


def test_without_a_world_real_texts_are_offered_that_no_document_is_known_of(any_text):
    found = any_text.get("/v1/passages").json()["passages"]
    assert [each["id"] for each in found] == ["news", "proof", "code", "unsaid", "premise"]
    assert all(each["document"] is None for each in found)
    assert all(bool(each["text"]) != bool(each["messages"]) for each in found)


def test_claims_about_any_text_are_checked_against_the_prompt(any_text):
    messages = [{"role": "user", "content": "Violet lamps! Nat rowed"}]
    body = {"messages": messages, "positions": [-1], "add_generation_prompt": False}
    for asked, form in ((body, "true"), ({"text": "Violet lamps! Nat rowed", "positions": [-1]},
                                         "uncheckable")):  # fmt: skip
        (token,) = any_text.post("/v1/explain", json=asked).json()["results"]
        verdicts = {each["kind"]: each["verdict"] for each in token["claims"]}
        assert verdicts == {"form": form, "subject": "true", "before": "true", "last": "true",
                            "next": "uncheckable"}  # fmt: skip
