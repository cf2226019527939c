"""The remote engine, against our own server in this process, and against a server of its peers."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import torch
from support.serving import D_MODEL, ScriptedEngine, client_for, scripted_nla, tiny_nla

from nlakit.engines.base import Sampling
from nlakit.engines.remote import RemoteEngine, RemotePair
from nlakit.engines.wire import Connection
from nlakit.errors import InputError, RemoteError, UnsupportedError
from nlakit.models.target import Encoded

URL = "http://127.0.0.1:8000"
SAMPLED = Sampling(samples=2, temperature=1.0, max_new_tokens=6, seed=3)


@pytest.fixture(scope="module")
def nla():
    return tiny_nla()


@pytest.fixture(scope="module")
def engine(nla, tmp_path_factory):
    with client_for(nla, tmp_path_factory.mktemp("data")) as client:
        yield RemoteEngine(Connection(URL, client=client))


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(1))


def wire_engine(answer, **options) -> RemoteEngine:
    """An engine whose server answers `answer(request)`, and has no /v1."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(404, json={"detail": "Not Found"})
        if request.url.path == "/":
            status = {"verbalizer_model": "other", "extraction_layer": 2, "d_model": D_MODEL}
            return httpx2.Response(200, json=status)
        return answer(request)

    client = httpx2.Client(transport=httpx2.MockTransport(handle))
    return RemoteEngine(Connection(URL, client=client, **options))


def body_of(request: httpx2.Request) -> dict[str, Any]:
    return json.loads(request.content)


def test_a_seed_gives_the_words_of_the_local_engine(engine, nla, vectors):
    local = nla.engine.verbalize(vectors, SAMPLED)
    remote = engine.verbalize(vectors, SAMPLED)
    assert [[each.text for each in group] for group in remote] == [
        [each.text for each in group] for group in local
    ]
    assert [[each.closed for each in group] for group in remote] == [
        [each.closed for each in group] for group in local
    ]


def test_streamed_words_are_those_of_the_answer(engine, vectors):
    heard = []
    greedy = Sampling(max_new_tokens=6)
    groups = engine.verbalize(vectors, greedy, lambda *event: heard.append(event))
    assert [group[0].text for group in groups] == [
        group[0].text for group in engine.verbalize(vectors, greedy)
    ]
    assert {sample for _, sample, _ in heard} <= {0}


def test_batches_keep_the_order(engine, vectors):
    engine.describe_batch = 2
    greedy = Sampling(max_new_tokens=4)
    whole = [group[0].text for group in engine.verbalize(vectors, greedy)]
    engine.describe_batch = 512
    assert [group[0].text for group in engine.verbalize(vectors, greedy)] == whole


def test_extract_and_score_are_those_of_the_server(engine, nla, vectors):
    encoded = nla.target.encode("Basil rowed by the pier.")
    assert torch.equal(engine.extract(encoded, [2, 1]), nla.engine.extract(encoded, [2, 1]))
    found, expected = engine.score("a story", vectors[0]), nla.score("a story", vectors[0])
    numbers = [(each.fidelity, each.cosine, each.mse) for each in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    assert found.baseline == "training_mean"


def test_other_tokens_than_the_server_s_are_refused(engine, nla):
    encoded = nla.target.encode("Basil rowed.")
    other = Encoded([9] * len(encoded.ids), encoded.offsets, encoded.tokens, encoded.text)
    with pytest.raises(RemoteError, match="other tokens"):
        engine.extract(other)


def test_a_remote_nla_reads_a_text(tmp_path):
    scripted = ScriptedEngine(words=lambda row: f"thought {row.vector} {row.sample}")
    with client_for(scripted_nla(scripted), tmp_path) as client:
        reader = RemotePair(URL, connection=Connection(URL, client=client))
        reading = reader.explain("the cat", [2, 1], samples=2)
        every, last = reader.explain("the cat"), reader.explain("the cat", last=1)
        heard = []
        twice = reader.explain("the cat", [2, 1, 2], on_text=lambda *each: heard.append(each))
        described = reader.describe(torch.ones(2, D_MODEL))
    assert [row.position for row in reading.tokens] == [2, 1]
    assert [[s.explanation for s in row.samples] for row in reading.tokens] == [
        ["thought 0 0", "thought 0 1"],
        ["thought 1 0", "thought 1 1"],
    ]
    assert [row.position for row in twice.tokens] == [2, 1, 2]
    assert {row for row, _, _ in heard} <= {0, 1}
    assert [row.position for row in every.tokens] == list(range(len(every.tokens)))
    assert [row.position for row in last.tokens] == [every.tokens[-1].position]
    assert reading.nla == "tiny" and reading.floors == {"mean": 0.0}
    assert [row.explanation for row in described.tokens] == ["thought 0 0", "thought 1 0"]


def test_the_secret_is_sent_and_its_lack_is_told(tmp_path):
    with client_for(scripted_nla(ScriptedEngine()), tmp_path, secret="open") as client:
        RemoteEngine(Connection(URL, "open", client=client))
        with pytest.raises(RemoteError, match="401: X-SECRET-KEY header required"):
            RemoteEngine(Connection(URL, client=client))


def test_bad_vectors_are_refused_here(engine, vectors):
    with pytest.raises(InputError, match=r"found \(3, 7\)"):
        engine.verbalize(vectors[:, :7], SAMPLED)


# -- other servers ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sampling", "found"),
    [
        (Sampling(samples=2, temperature=1.0), "several explanations"),
        (Sampling(temperature=1.0, top_p=0.9), "likeliest"),
        (Sampling(temperature=1.0, seed=4), "same seed"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_anything_is_sent(vectors, sampling, found):
    engine = wire_engine(lambda request: pytest.fail(f"{request.url} was asked"))
    with pytest.raises(UnsupportedError, match=found):
        engine.verbalize(vectors, sampling)
    with pytest.raises(UnsupportedError, match="score"):
        engine.reconstruct(["a"])


def test_a_wire_server_s_stream_has_no_index_in_its_finals(vectors):
    frames = [
        {"index": 1, "text": "<explanation>b", "done": False},
        {"description": "a", "mse": 0.5, "cosine_similarity": 0.75},
        {"description": "b", "mse": None, "cosine_similarity": None},
    ]
    lines = [": ping\n\n", *(f"data: {json.dumps(frame)}\n\n" for frame in frames)]

    def answer(request):
        assert body_of(request).keys() == {
            "activations",
            "temperature",
            "max_new_tokens",
            "stream",
        }
        return httpx2.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))

    heard = []
    groups = wire_engine(answer).verbalize(vectors[:2], Sampling(), lambda *e: heard.append(e))
    assert [group[0].text for group in groups] == ["a", "b"]
    assert heard == [(1, 0, "b")]


def test_a_stream_that_breaks_off_is_an_error(vectors):
    engine = wire_engine(lambda _: httpx2.Response(200, text='data: {"description": "a"}\n\n'))
    with pytest.raises(RemoteError, match="broke off"):
        engine.verbalize(vectors[:2], Sampling(), lambda *_: None)


def test_a_busy_server_is_asked_again_when_it_says(vectors):
    waits: list[float] = []
    answers = [
        httpx2.Response(429, headers={"Retry-After": "7"}),
        httpx2.Response(503),
        httpx2.Response(200, json={"mse": 0.5, "cosine_similarity": 0.75}),
    ]
    engine = wire_engine(lambda _: answers.pop(0), sleep=waits.append)
    score = engine.score("a", vectors[0])
    # Nobody said what to measure against, so the cosine stands in.
    assert (score.mse, score.fidelity, score.baseline) == (0.5, 0.75, "none")
    assert waits[0] == 7.0 and 0.5 <= waits[1] <= 1.0


def test_patience_ends_with_the_server_s_words(vectors):
    waits: list[float] = []
    busy = {"detail": "Too many."}
    engine = wire_engine(lambda _: httpx2.Response(429, json=busy), sleep=waits.append)
    with pytest.raises(RemoteError, match=r"429: Too many\.") as caught:
        engine.score("a", vectors[0])
    assert caught.value.status == 429 and len(waits) == 5


def test_no_server_and_another_kind_of_server_are_told_apart():
    def refused(request):
        raise httpx2.ConnectError("refused")

    for handle, found in (
        (refused, "cannot be reached"),
        (lambda _: httpx2.Response(200, text="<html>"), "no JSON object"),
        (lambda _: httpx2.Response(200, json={}), "no server of explanations"),
    ):
        client = httpx2.Client(transport=httpx2.MockTransport(handle))
        with pytest.raises(RemoteError, match=found):
            RemoteEngine(Connection(URL, client=client))
