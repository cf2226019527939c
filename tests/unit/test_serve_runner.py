"""What happens to requests in the batch: sharing, leaving, failing, waiting."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.serving import (
    D_MODEL,
    WAIT_S,
    Gate,
    ScriptedEngine,
    client_for,
    scripted_nla,
    tiny_nla,
    until,
)

from nlakit.serve import records, runner
from nlakit.serve.completion import Continuation
from nlakit.serve.queue import Job
from nlakit.serve.stream import frame

VECTOR = [1.0] * D_MODEL
QUIET = {"rows_active": 0, "rows_waiting": 0, "requests_open": 0}


def frames(response) -> list[dict]:
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


def gauges(client) -> dict[str, float]:
    text = client.get("/metrics").text
    found = re.findall(r"^nlakit_(rows_active|rows_waiting|requests_open) (\S+)$", text, re.M)
    return {name: float(value) for name, value in found}


def asking(client, activations) -> threading.Thread:
    """Somebody else who asks at the same time."""
    body = {"activations": activations}
    thread = threading.Thread(target=client.post, args=("/describe",), kwargs={"json": body})
    thread.start()
    return thread


def queue_of(client):
    return client.app.state.service.queue


@pytest.fixture
def told(monkeypatch) -> list[tuple[int, str]]:
    """Each place and its words so far, as the engine tells them: a reader may miss some."""
    found: list[tuple[int, str]] = []
    tell = Job.tell_progress
    keep = lambda job, place, text: found.append((place, text)) or tell(job, place, text)  # noqa: E731
    monkeypatch.setattr(Job, "tell_progress", keep)
    return found


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_any_number_of_positions_ends(tmp_path, max_rows):
    engine = ScriptedEngine(words=lambda row: "w " * (1 + row.vector % 5))
    with client_for(scripted_nla(engine), tmp_path, max_rows=max_rows) as client:
        for number in (1, 2, 7, 8, 9, 40):
            body = {"activations": [VECTOR] * number, "stream": number % 2 == 0}
            found = client.post("/describe", json=body)
            assert found.text.count('"description"') == number
        assert engine.most_rows == max_rows - max_rows // 8
        assert gauges(client) == QUIET


def test_requests_share_the_batch(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 20)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, max_rows=32) as client:
        asked = [asking(client, [VECTOR]) for _ in range(8)]
        until(lambda: queue_of(client).num_open == 8)
        engine.gate.open()
        for each in asked:
            each.join()
    # Those that came while the first step was taken are written side by side after it.
    assert engine.most_rows == 8


def test_a_small_request_overtakes_a_large_one(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 10)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, max_rows=8) as client:
        large = asking(client, [VECTOR] * 200)
        until(lambda: engine.most_rows == 7)
        small = asking(client, [VECTOR])
        until(lambda: queue_of(client).num_waiting == 193 + 1)
        engine.gate.open()
        small.join()
        large.join()
    jobs = [row.tag.job.number for row in engine.entered]  # pyright: ignore[reportAttributeAccessIssue]
    assert (jobs.index(2), len(jobs)) == (7, 201)


def test_a_large_request_is_scored_in_slices_between_which_others_are_scored(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w w" if row.vector else "w w w")
    scored: list[int] = []
    reconstruct = engine.reconstruct
    engine.reconstruct = lambda texts: scored.append(len(texts)) or reconstruct(texts)
    with client_for(scripted_nla(engine), tmp_path, max_rows=64) as client:
        client.post("/describe", json={"activations": [VECTOR] * 56})
        assert scored[:2] == [13, 10]  # a quarter of the 55 that ended together, and so on
        assert sum(scored) == 56


def test_small_calls_are_made_together_between_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CALLS_S", math.inf)
    engine = ScriptedEngine(words=lambda row: "w " * 20)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path) as client, ThreadPoolExecutor(8) as pool:
        large = asking(client, [VECTOR])
        until(lambda: engine.most_rows == 1)
        body = {"description": "a", "activation": VECTOR}
        scores = [pool.submit(client.post, "/score", json=body) for _ in range(8)]
        until(lambda: len(client.app.state.service.runner._calls) == 8)
        engine.gate.let(1)
        assert {each.result().status_code for each in scores} == {200}
        assert engine.num_steps == 1
        engine.gate.open()
        large.join()


def test_a_bad_activation_fails_alone(tmp_path):
    engine = ScriptedEngine(activation=lambda p: [float("nan") if p == 1 else 1.0] * D_MODEL)
    with client_for(scripted_nla(engine), tmp_path) as client:
        body = {"text": "the cat sat", "positions": [0, 1, 2], "reverse": False}
        found = client.post("/explain", json=body).json()["results"]
        assert ["error" in each for each in found] == [False, True, False]
        assert (found[1]["description"], found[1]["mse"], found[1]["l2_norm"]) == ("", None, 0)
        streamed = frames(client.post("/explain", json={**body, "stream": True}))
        errors = [each for each in streamed if "error" in each]
        assert errors == [{"error": "the activation is not finite", "position": 1}]
        assert sum("description" in each for each in streamed) == 2
        assert client.post("/extract", json={"text": "the cat sat"}).status_code == 400


def test_an_explanation_that_cannot_be_scored_fails_alone(tmp_path):
    engine = ScriptedEngine()
    engine.refused = {"thought 1"}
    with client_for(scripted_nla(engine), tmp_path) as client:
        body = {"activations": [VECTOR] * 3, "stream": True}
        streamed = frames(client.post("/describe", json=body))
        finals = [each for each in streamed if each.get("done") is None]
        assert [each["index"] for each in finals if "error" in each] == [1]
        assert sorted(each["index"] for each in finals) == [0, 1, 2]
        v1 = client.post("/v1/describe", json={"activations": [VECTOR] * 2}).json()["results"]
        assert v1[1]["samples"] == [] and v1[1]["word"] is None


def test_rows_of_a_batch_that_failed_once_are_started_over(tmp_path):
    engine = ScriptedEngine()
    engine.breaks_at = {1}
    with client_for(scripted_nla(engine), tmp_path) as client:
        found = client.post("/describe", json={"activations": [VECTOR] * 5}).json()["results"]
        assert [each["description"] for each in found] == [f"thought {i}" for i in range(5)]
        assert gauges(client) == QUIET


def test_of_a_batch_that_fails_again_and_again_one_row_errs(tmp_path):
    engine = ScriptedEngine(words=lambda row: f"some words of thought {row.vector}")
    engine.poison = {"some words of thought 20"}
    engine.gate.let(0)
    with (
        client_for(scripted_nla(engine), tmp_path, max_rows=64) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        ask = lambda n: client.post("/describe", json={"activations": [VECTOR] * n}).json()  # noqa: E731
        innocent, guilty = pool.submit(ask, 20), pool.submit(ask, 21)
        until(lambda: queue_of(client).num_unfinished == 41)
        engine.gate.open()
        found = guilty.result()["results"]
        assert [each.get("error") for each in found[:20]] == [None] * 20
        assert found[20]["error"] == "the engine failed: index 9 is out of range"
        assert [len(each) for each in innocent.result()["results"]] == [3] * 20
        assert gauges(client) == QUIET


def test_words_of_a_row_that_is_started_over_never_become_fewer(tmp_path, monkeypatch, told):
    monkeypatch.setattr(runner, "PROGRESS_S", 0)
    engine = ScriptedEngine(words=lambda row: "w " * 60)
    engine.breaks_at = {40}
    with client_for(scripted_nla(engine), tmp_path) as client:
        body = {"activations": [VECTOR] * 2, "stream": True}
        streamed = frames(client.post("/describe", json=body))
        for index in (0, 1):
            lengths = [len(text) for place, text in told if place == index]
            assert lengths == sorted(lengths) and len(lengths) == 60
            read = [len(e["text"]) for e in streamed if e["index"] == index and "text" in e]
            assert read == sorted(read)
        assert len(engine.entered) == 4


def test_a_comparison_that_fails_is_no_empty_answer(tmp_path):
    engine = ScriptedEngine(words=lambda row: "some words of poison")
    engine.poison = {"some words of poison"}
    with client_for(scripted_nla(engine), tmp_path) as client:
        found = client.post("/compare", json={"activation_a": VECTOR, "activation_b": [0.0] * 8})
        assert found.status_code == 503 and "Retry-After" in found.headers


def test_a_full_queue_answers_429(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 50)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, max_requests=1) as client:
        first = asking(client, [VECTOR])
        until(lambda: engine.most_rows == 1)
        refused = client.post("/describe", json={"activations": [VECTOR], "stream": True})
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        engine.gate.open()
        first.join()
        until(lambda: gauges(client) == QUIET)
        assert client.post("/describe", json={"activations": [VECTOR]}).status_code == 200


def test_a_request_has_a_deadline(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 1000)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, request_deadline_s=0.1) as client:
        body = {"activations": [VECTOR] * 2, "max_new_tokens": 1000}
        assert client.post("/describe", json=body).status_code == 504
        streamed = frames(client.post("/describe", json={**body, "stream": True}))
        assert [each["index"] for each in streamed if "error" in each] == [0, 1]
        engine.gate.open()
        until(lambda: gauges(client) == QUIET)


def test_progress_is_at_most_fifteen_a_second(tmp_path, monkeypatch, told):
    engine = ScriptedEngine(words=lambda row: "w " * 100)
    # A clock on which a step takes a hundredth of a second.
    monkeypatch.setattr(runner, "now", lambda: 10 + engine.num_steps / 100)
    with client_for(scripted_nla(engine), tmp_path) as client:
        client.post("/describe", json={"activations": [VECTOR], "stream": True})
    assert len(told) == 15 + 1  # the last words are told in any case


def test_silence_has_a_heartbeat(tmp_path):
    engine = ScriptedEngine()
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, heartbeat_s=0.02) as client:
        body = {"activations": [VECTOR], "stream": True}
        opens = lambda chunk: chunk == b": ping\n\n" and engine.gate.open()  # noqa: E731
        told = client.portal.call(watched, client.app, "/describe", body, opens)
    sent = [each for each in told if each != b": ping\n\n"]
    assert len(sent) < len(told) and b"thought 0" in sent[-3]
    assert sent[-2:] == [b"data: [DONE]\n\n", b""]


def test_a_queue_that_waits_is_told(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 100)
    engine.gate.let(0)
    with client_for(scripted_nla(engine), tmp_path, max_rows=1) as client:
        first = asking(client, [VECTOR])
        until(lambda: engine.most_rows == 1)
        body = {"activations": [VECTOR], "stream": True}
        opens = lambda chunk: b"queue" in chunk and engine.gate.open()  # noqa: E731
        sent = client.portal.call(watched, client.app, "/v1/describe", body, opens)
        found = json.loads(next(each for each in sent if each)[6:])
        assert found == {"position_in_queue": 1, "done": False, "queued": True}
        first.join()


def test_shutting_down_tells_who_waits(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 4000)
    engine.step_s = 0.01
    with client_for(scripted_nla(engine), tmp_path) as client:
        answers = []
        body = {"activations": [VECTOR], "max_new_tokens": 4000}
        waiting = threading.Thread(
            target=lambda: answers.append(client.post("/describe", json=body))
        )
        waiting.start()
        until(lambda: engine.most_rows == 1)
        client.app.state.service.runner.stop()
        waiting.join()
        assert answers[0].status_code == 503 and "Retry-After" in answers[0].headers
        assert (
            client.post("/score", json={"description": "a", "activation": VECTOR}).status_code
            == 503
        )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_says_so(tmp_path):
    engine = ScriptedEngine()
    engine.reconstruct = lambda _: (_ for _ in ()).throw(SystemError("unforeseen"))
    with client_for(scripted_nla(engine), tmp_path) as client:
        assert client.post("/describe", json={"activations": [VECTOR]}).status_code == 503
        assert client.get("/v1/health").status_code == 503
        assert client.get("/v1/health").json()["status"] == "failed"


@pytest.mark.parametrize("stream", [False, True])
def test_records_are_not_made_on_the_event_loop(tmp_path, monkeypatch, stream):
    make, threads = records.described_v1, set()
    monkeypatch.setattr(
        records,
        "described_v1",
        lambda *args: threads.add(threading.current_thread().name) or make(*args),
    )
    with client_for(scripted_nla(ScriptedEngine()), tmp_path) as client:
        body = {"activations": [VECTOR] * 50, "stream": stream}
        assert client.post("/v1/describe", json=body).text.count('"description"') >= 50
    assert {name.rpartition("_")[0] for name in threads} == {"nlakit-answers"}


def test_a_record_that_json_cannot_hold_is_a_frame_all_the_same():
    record = {"a": math.nan, "b": [1.0, -math.inf], "c": {"d": "\ud800", "e": 1}}
    text = frame(record).decode()
    assert text.startswith("data: ") and text.endswith("\n\n")
    assert json.loads(text[6:]) == {"a": None, "b": [1.0, None], "c": {"d": "?", "e": 1}}


# -- a client that leaves --------------------------------------------------------------------------
async def leave_after(app, path: str, body: dict, num_chunks: int, ready=lambda: True) -> None:
    """Ask as a server would, and hang up after so many pieces of the answer."""
    chunks: list[bytes] = []
    await asked(app, path, body, chunks.append, lambda: len(chunks) >= num_chunks and ready())


async def watched(app, path: str, body: dict, look) -> list[bytes]:
    """Ask as a server would; `look` sees each piece of the answer as it is sent."""
    chunks: list[bytes] = []
    await asked(app, path, body, lambda chunk: (chunks.append(chunk), look(chunk)), lambda: False)
    return chunks


async def asked(app, path: str, body: dict, take, leaves) -> None:
    """One request; `take` gets each piece of its answer, and `leaves` says when to hang up."""
    raw = json.dumps(body).encode()
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"headers": headers, "query_string": b"", "scheme": "http", "root_path": ""}
    scope |= {"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}}
    sent = iter([{"type": "http.request", "body": raw, "more_body": False}])

    async def receive():
        for message in sent:
            return message
        while not leaves():
            await asyncio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(message):
        take(message.get("body", b""))

    await asyncio.wait_for(app(scope, receive, send), WAIT_S)


@pytest.mark.parametrize(
    ("path", "stream"), [("/describe", True), ("/describe", False), ("/v1/describe", True)]
)
def test_a_client_that_leaves_frees_its_rows(tmp_path, path, stream):
    engine = ScriptedEngine(words=lambda row: "w " * 4000)
    engine.gate.let(10)
    with client_for(scripted_nla(engine), tmp_path, max_rows=8) as client:
        body = {"activations": [VECTOR] * 40, "max_new_tokens": 4000, "stream": stream}
        chunks, ready = (4 if stream else 0), lambda: engine.num_steps == 10
        client.portal.call(leave_after, client.app, path, body, chunks, ready)
        engine.gate.open()
        until(lambda: gauges(client) == QUIET)
        assert client.app.state.service.runner.num_active == 0
        assert engine.num_steps <= 11 and len(engine.entered) == 7


def test_leaving_a_completion_stops_it(tmp_path, monkeypatch):
    gate, advance = Gate(), Continuation.advance
    gate.let(5)
    monkeypatch.setattr(Continuation, "advance", lambda each: (gate.enter(), advance(each))[1])
    with client_for(tiny_nla(), tmp_path) as client:
        body = {"text": "a", "completion_tokens": 400, "temperature": 5, "stream": True}
        client.portal.call(leave_after, client.app, "/completion", body, 3)
        gate.let(1)  # there is no more than one step, after which it is gone
        until(lambda: not client.app.state.service.runner._steppers)


# -- the real engine -------------------------------------------------------------------------------
def test_a_row_says_the_same_whoever_shares_its_batch(tmp_path):
    nla = tiny_nla()
    vectors = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(1))
    options = {"samples": 2, "temperature": 1.0, "max_new_tokens": 12, "seed": 9}
    alone = nla.describe(vectors, **options)
    body = {"activations": vectors.tolist(), **options}
    others = [
        {"activations": vectors.tolist(), "temperature": t, "top_p": p, "max_new_tokens": n}
        for t, p, n in ((0, 1, 30), (0.5, 0.5, 20), (1.5, 1, 3))
    ]
    with client_for(nla, tmp_path, max_rows=4) as client:
        ask = lambda each: client.post("/v1/describe", json=each).json()["results"]  # noqa: E731
        with ThreadPoolExecutor(4) as pool:
            shared = list(pool.map(ask, [*others, body]))[-1]
    expected = [[each.explanation for each in token.samples] for token in alone.tokens]
    assert [[each["description"] for each in found["samples"]] for found in shared] == expected
    for found, token in zip(shared, alone.tokens, strict=True):
        assert found["fidelity"] == pytest.approx(token.fidelity, abs=1e-4)
        assert found["word"] == token.word


def test_an_answer_of_one_token_disturbs_nobody(tmp_path):
    nla = tiny_nla()
    vectors = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(1))
    body = {"activations": vectors.tolist(), "max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    short = {"activations": vectors[:3].tolist(), "max_new_tokens": 1}
    with client_for(nla, tmp_path) as client:
        ask = lambda each: client.post("/v1/describe", json=each).json()["results"]  # noqa: E731
        alone = ask(body)
        with ThreadPoolExecutor(4) as pool:
            shared, *cut = pool.map(ask, [body, short, {**short, "temperature": 0}, short])
    said = [[each["description"] for each in results] for results in (shared, alone)]
    assert said[0] == said[1]
    assert not any("error" in each for results in cut for each in results)
    expected = nla.describe(vectors[:3], max_new_tokens=1)
    assert [each["description"] for each in cut[1]] == [t.explanation for t in expected.tokens]


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-20])
def test_tiny_temperatures_say_what_greedy_says(tmp_path, temperature):
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(1)).tolist()
    with client_for(tiny_nla(), tmp_path) as client:
        body = {"activations": vectors, "max_new_tokens": 9, "samples": 2}
        ask = lambda t: client.post("/v1/describe", json={**body, "temperature": t})  # noqa: E731
        assert ask(temperature).json() == ask(0).json()
        body = {"text": "the cat", "completion_tokens": 8}
        write = lambda t: client.post("/completion", json={**body, "temperature": t})  # noqa: E731
        assert write(temperature).json() == write(0).json()
