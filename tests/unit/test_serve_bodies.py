"""Bodies that are too large, too slow, too deep, half sent, or from who has no secret."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from starlette.requests import ClientDisconnect
from support.serving import D_MODEL, WAIT_S, ScriptedEngine, client_for, scripted_nla

from nlakit.serve import bodies
from nlakit.serve.bodies import MIB, Bodies, BodiesFull, TooLarge, TooSlow, bound_of
from nlakit.serve.settings import Settings

JSON = {"Content-Type": "application/json"}
SECRET = "open-sesame"
WITH_BODY = [
    *("/tokenize", "/completion", "/explain", "/extract", "/describe", "/score", "/compare"),
    *("/v1/explain", "/v1/extract", "/v1/describe", "/v1/readings"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_for(scripted_nla(ScriptedEngine()), tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    data = tmp_path_factory.mktemp("guarded")
    with client_for(scripted_nla(ScriptedEngine()), data, secret=SECRET) as found:
        yield found


def test_a_route_takes_what_it_can_use():
    def bound(path: str, d_model: int = 4096) -> int:
        return bound_of(path, d_model, Settings())

    numbers = "-1.2345678901234567e-100, "
    assert bound("/describe") > 512 * 4096 * len(numbers) and bound("/describe", 8) < MIB
    assert bound("/score") < MIB and bound("/compare") < MIB
    assert bound("/tokenize") > 65_536 * len("\\ud83d\\ude00") and bound("/tokenize") <= MIB
    assert bound("/v1/health") < bound("/tokenize") < bound("/v1/readings") <= 8 * MIB
    assert bound_of("/describe", 10**6, Settings(max_body_bytes=5000)) == 5000


@pytest.mark.parametrize("path", WITH_BODY)
def test_who_has_no_secret_is_told_so_before_a_large_body_is_read(guarded, path):
    read = []

    def parts() -> Iterator[bytes]:
        for _ in range(3):
            read.append(1)
            yield b"[" * 50_000

    missing = guarded.post(path, content=parts(), headers=JSON)
    assert (missing.status_code, missing.json()["detail"]) == (401, "X-SECRET-KEY header required")
    wrong = guarded.post(path, content=b"[" * 200_000, headers={**JSON, "X-SECRET-KEY": "x"})
    assert (wrong.status_code, wrong.json()["detail"]) == (403, "Invalid secret key")


def test_paths_that_do_not_exist_ask_nobody_for_a_secret(guarded):
    assert guarded.post("/nowhere", content=b"{}", headers=JSON).status_code == 404


@pytest.mark.parametrize("path", WITH_BODY)
def test_deep_json_is_malformed(client, guarded, path):
    for raw in (b"[" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000):
        for asked, headers in ((client, JSON), (guarded, JSON)):
            found = asked.post(path, content=raw, headers=headers)
            assert found.status_code == 422
            assert found.json()["detail"][0]["type"] == "json_invalid"


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("raw", [b'{"a": 1,}', b'{\n "text": "x', b"\xff\xfe{}", b"nonsense"])
def test_malformed_json_is_said_to_be_that(client, path, raw):
    (found,) = client.post(path, content=raw, headers=JSON).json()["detail"]
    assert (found["type"], found["msg"]) == ("json_invalid", "JSON decode error")
    assert found["loc"][0] == "body" and 0 <= found["loc"][1] <= len(raw)


@pytest.mark.parametrize("path", WITH_BODY)
def test_numbers_of_thousands_of_digits_are_no_error_of_ours(client, guarded, path):
    raw = b'{"text": ' + b"9" * 5000 + b', "positions": [' + b"9" * 5000 + b"]}"
    assert client.post(path, content=raw, headers=JSON).status_code == 422
    assert guarded.post(path, content=raw, headers=JSON).status_code in (401, 422)


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'"x"', b"3"])
def test_a_body_that_is_no_object_is_refused(client, path, raw):
    found = client.post(path, content=raw, headers=JSON)
    assert found.status_code == 422 and found.json()["detail"][0]["loc"][0] == "body"


def test_another_type_of_body_is_refused(client):
    for headers in ({}, {"Content-Type": "text/plain"}):
        found = client.post("/tokenize", content=b'{"text": "a"}', headers=headers)
        assert found.status_code == 422
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
        headers = {"Content-Type": kind}
        found = client.post("/tokenize", content=b'{"text": "a"}', headers=headers)
        assert found.status_code == 200


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/describe", b'{"activations": [' + b"[]," * 20_000 + b"[]]}"),
        ("/describe", b'{"activations": [[' + b'"x",' * 30_000 + b'"x"]]}'),
        ("/explain", b'{"text": "a", "positions": [' + b"[]," * 300_000 + b"[]]}"),
        ("/tokenize", b'{"messages": [' + b"{}," * 300_000 + b"{}]}"),
        ("/v1/readings", b'{"title": "a", "reading": {"x": [' + b"{}," * 2_500_000 + b"{}]}}"),
        ("/v1/readings", b'{"title": "a", "reading": {"x": [' + b"1," * 4_000_000 + b"1]}}"),
    ],
)
def test_what_would_be_costly_to_parse_is_not_parsed(client, monkeypatch, path, raw):
    parsed = []
    monkeypatch.setattr(bodies.JsonBody, "record", lambda self, raw: parsed.append(raw))
    found = client.post(path, content=raw, headers=JSON)
    assert found.status_code in (413, 422) and parsed == []
    assert len(found.content) < 1000


def test_of_many_problems_few_are_told(client):
    body = {"text": "a", "positions": ["x"] * 200_000}
    found = client.post("/explain", json=body)
    assert found.status_code == 422 and len(found.json()["detail"]) <= 20
    assert len(found.content) < 20_000


def test_a_large_body_is_parsed_beside_the_event_loop(client, monkeypatch):
    threads, record = [], bodies.JsonBody.record
    keep = lambda self, raw: threads.append(threading.current_thread().name) or record(self, raw)  # noqa: E731
    monkeypatch.setattr(bodies.JsonBody, "record", keep)
    for size in (10, 100_000):
        assert client.post("/tokenize", json={"text": "a" * size}).status_code in (200, 400, 422)
    assert [name.startswith("nlakit-request bodies") for name in threads] == [False, True]


def test_a_large_and_a_valid_body_is_read(client):
    vector = [0.1234567890123456] * D_MODEL
    body = {"activations": [vector] * 512, "max_new_tokens": 1}
    assert len(client.post("/describe", json=body).json()["results"]) == 512
    # Twelve bytes for each character of a text that is as long as may be.
    raw = json.dumps({"title": "a", "reading": {"text": "\U0001f408" * 65_536}}).encode()
    assert client.post("/v1/readings", content=raw, headers=JSON).status_code == 201
    raw = json.dumps({"text": "\U0001f408" * 65_536}).encode()
    found = client.post("/tokenize", content=raw, headers=JSON)
    assert found.status_code == 400 and "tokens long" in found.json()["detail"]


# -- reading ---------------------------------------------------------------------------------------
def receiving(*messages):
    """An ASGI `receive`; None: nothing comes any more."""
    left = iter(messages)

    async def receive():
        message = next(left)
        if message is None:
            await asyncio.sleep(3600)
        return message

    return receive


def part(body: bytes, more: bool = True) -> dict:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_read_and_counted_until_it_is_released():
    held = Bodies()
    body = asyncio.run(held.read(receiving(part(b"ab"), part(b"c", False)), 3))
    assert (body.raw, held.held) == (b"abc", 3)
    body.release()
    body.release()
    assert (body.raw, held.held) == (b"", 0)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([part(b"ab"), part(b"cd")], TooLarge),
        ([part(b"a"), None], TooSlow),
        ([part(b"a"), {"type": "http.disconnect"}], ClientDisconnect),
    ],
)
def test_a_body_that_does_not_come_whole_is_forgotten(monkeypatch, messages, error):
    monkeypatch.setattr(bodies, "FIRST_S", 0.05)
    held = Bodies()
    with pytest.raises(error):
        asyncio.run(held.read(receiving(*messages), 3))
    assert held.held == 0


def test_all_bodies_together_are_bounded():
    held = Bodies(busy_bytes=10)

    async def read() -> None:
        await held.read(receiving(part(b"x" * 12, False)), 99)  # alone it may be larger
        await held.read(receiving(part(b"x", False)), 99)

    with pytest.raises(BodiesFull):
        asyncio.run(read())
    assert held.held == 12


@pytest.mark.parametrize("messages", [[None], [part(b"{"), None]])
def test_a_half_sent_body_is_not_waited_for(client, monkeypatch, messages):
    monkeypatch.setattr(bodies, "FIRST_S", 0.05)
    sent = client.portal.call(answered, client.app, receiving(*messages))
    assert sent[0]["status"] == 408


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(client, caplog):
    leaving = receiving(part(b'{"text"'), {"type": "http.disconnect"})
    assert client.portal.call(answered, client.app, leaving) == []
    assert caplog.text == ""


async def answered(app, receive) -> list[dict]:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/tokenize", "raw_path": b"/tokenize"}
    scope |= {"headers": headers, "query_string": b"", "scheme": "http", "root_path": ""}
    scope |= {"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}}
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), WAIT_S)
    return sent
