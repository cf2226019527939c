"""Connections that say nothing, stall, are too many, or do not speak HTTP. Real sockets."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import struct

import httpx2
import pytest
from support.serving import D_MODEL, WAIT_S, ScriptedEngine, scripted_nla, served, until

from nlakit.cli.serve import bind
from nlakit.serve import connections
from nlakit.serve.connections import FEWEST, MOST, Room, room_for
from nlakit.serve.logs import PER_MINUTE, Repeated
from nlakit.serve.settings import Settings

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PATIENT = {"head_s": 3600, "rest_s": 3600, "stall_s": 3600}
"""A test makes the limit short that it is about: what ends then ends for that."""


def settings_for(tmp_path, **more) -> Settings:
    return Settings(data_dir=tmp_path, **{**PATIENT, **more})


def rest_of(connection: socket.socket) -> bytes:
    """What the other side still sends until it ends the connection. Raises `TimeoutError`."""
    parts: list[bytes] = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def is_well(found) -> bool:
    """Whether an honest client is answered; where heads have little time, it may be too slow."""
    try:
        return httpx2.get(f"{found.url}/v1/health", timeout=WAIT_S).status_code == 200
    except httpx2.TransportError:
        return False


def service_of(found):
    return found.server.config.app.state.service


def head(path: str, length: int, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


def chunked(path: str) -> bytes:
    return head(path, 5).replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")


def status_of(connection: socket.socket) -> int:
    """The status of an answer, which is read whole."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_small_frames_are_sent_at_once(tmp_path):
    nla = scripted_nla(ScriptedEngine())
    with served(nla, settings_for(tmp_path)) as found, found.connect() as connection:
        connection.sendall(HEALTH)
        assert status_of(connection) == 200
        (ours,) = found.server.server_state.connections
        sock = ours.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for host in ("127.0.0.1", "::1"):
        with bind(host, 0) as listener:
            assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("said", [b"", b"GET /v1/he", HEALTH[:-2], HEALTH + b"GET /"])
def test_a_head_that_does_not_come_is_not_waited_for(tmp_path, said):
    options = settings_for(tmp_path, head_s=0.2, rest_s=0.2)
    with served(scripted_nla(ScriptedEngine()), options) as found, found.connect() as connection:
        connection.sendall(said)
        rest_of(connection)


def test_a_head_that_drips_is_not_waited_for(tmp_path):
    options = settings_for(tmp_path, head_s=0.2)
    with served(scripted_nla(ScriptedEngine()), options) as found, found.connect() as connection:

        def is_cut_off() -> bool:
            try:
                connection.sendall(b"G")
            except ConnectionError:
                return True
            return False

        until(is_cut_off)


def test_a_connection_may_rest_for_a_while(tmp_path):
    nla = scripted_nla(ScriptedEngine())
    with served(nla, settings_for(tmp_path)) as found, found.connect() as connection:
        for _ in range(3):
            connection.sendall(HEALTH)
            assert status_of(connection) == 200
            (ours,) = found.server.server_state.connections
            assert "head" not in ours._timers  # which counts from the next byte
    short = settings_for(tmp_path, rest_s=0.2)
    with served(nla, short) as found, found.connect() as connection:
        connection.sendall(HEALTH)
        assert status_of(connection) == 200
        rest_of(connection)


def test_silent_connections_shut_nobody_out(tmp_path):
    with served(scripted_nla(ScriptedEngine()), settings_for(tmp_path), Room(6, 8)) as found:
        silent = [found.connect() for _ in range(20)]
        for _ in range(8):
            assert is_well(found)
        for connection in silent:
            connection.close()


def test_where_all_are_busy_one_more_is_told_when_to_come_back(tmp_path):
    engine = ScriptedEngine(words=lambda row: "w " * 4000)
    engine.gate.let(0)
    with served(scripted_nla(engine), settings_for(tmp_path), Room(2, 8)) as found:
        body = json.dumps({"activations": [[1.0] * D_MODEL], "max_new_tokens": 4000}).encode()
        busy = [found.connect() for _ in range(2)]
        for connection in busy:
            connection.sendall(head("/describe", len(body)) + body)
        until(lambda: service_of(found).queue.num_open == 2)
        with found.connect() as connection:
            answer = rest_of(connection)
            assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
        for connection in busy:
            connection.close()
        until(lambda: service_of(found).queue.num_open == 0)
        engine.gate.open()


def test_a_reader_who_stalls_is_cut_off(tmp_path):
    # More than the system keeps for a connection, many times over.
    engine = ScriptedEngine(words=lambda row: "w" * 100_000)
    with served(scripted_nla(engine), settings_for(tmp_path, stall_s=0.3)) as found:
        queue = service_of(found).queue
        raw = json.dumps({"activations": [[1.0] * D_MODEL] * 200, "stream": True}).encode()
        with found.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head("/describe", len(raw)) + raw)
            until(lambda: engine.num_steps)  # which stays true: it may be cut off before we look
            until(lambda: queue.num_open == 0)
            until(lambda: not found.server.server_state.connections)  # it rests for an hour else
        assert is_well(found)


def test_an_answer_to_a_body_that_is_not_read_arrives_before_the_end(tmp_path):
    options = settings_for(tmp_path, secret="s3")
    nla = scripted_nla(ScriptedEngine())
    with served(nla, options) as found, found.connect() as connection:
        connection.sendall(head("/describe", 200_000) + b"x" * 100_000)
        assert status_of(connection) == 401
        rest_of(connection)


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 300,
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HEALTH[:-2] + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        HEALTH + b"\x00\x01\x02",
        head("/tokenize", 5).replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
        + b"zz\r\n",
        head("/nowhere", 5).replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
        + b"zz\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(tmp_path, caplog, said):
    options = settings_for(tmp_path, head_s=0.3, rest_s=0.3)
    with served(scripted_nla(ScriptedEngine()), options) as found:
        for _ in range(2):
            with found.connect() as connection:
                try:
                    connection.sendall(said)
                except ConnectionError:
                    continue
                rest_of(connection)
        until(lambda: is_well(found))
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/describe", "/v1/readings"])
@pytest.mark.parametrize("kind", ["reset", "half"])
def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(tmp_path, caplog, path, kind):
    with served(scripted_nla(ScriptedEngine()), settings_for(tmp_path)) as found:
        for _ in range(3):
            connection = found.connect()
            connection.sendall(head(path, 500) + b'{"text"')
            if kind == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        assert is_well(found)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_forwarded_headers_are_not_believed(tmp_path):
    seen: set[str] = set()
    engine = ScriptedEngine()
    with served(scripted_nla(engine), settings_for(tmp_path)) as found:
        queue = service_of(found).queue

        def words(_row) -> str:
            # Asked while the row is written: its client has not left the queue.
            seen.update(job.client.address for job in queue._open.values())
            return "a thought"

        engine.words = words
        headers = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https"}
        body = {"activations": [[1.0] * D_MODEL], "stream": True}
        asked = {"json": body, "headers": headers, "timeout": WAIT_S}
        assert httpx2.post(f"{found.url}/describe", **asked).is_success
    assert seen == {"127.0.0.1"}


# -- without sockets -------------------------------------------------------------------------------
def test_connections_are_as_many_as_there_are_descriptors_for():
    assert room_for(256, 20) == Room(256 - 20 - 64 - 32, 32)
    assert room_for(10**6, 20) == Room(MOST, 128)
    assert room_for(64, 60) == Room(FEWEST, 8)


def test_the_message_of_a_busy_server_is_as_long_as_it_says():
    lines, body = connections.BUSY.split(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in lines and json.loads(body)


def test_lines_of_one_kind_are_few(caplog):
    clock = [0.0]
    told = Repeated(lambda: clock[0])

    def say(text: str) -> logging.LogRecord:
        return logging.LogRecord("a", logging.WARNING, "here.py", 1, text, (), None)

    passed = [told.filter(say(f"line {number}")) for number in range(50)]
    assert passed == [True] * PER_MINUTE + [False] * (50 - PER_MINUTE)
    other = logging.LogRecord("a", logging.WARNING, "here.py", 2, "other", (), None)
    assert told.filter(other)
    clock[0] = 61.0
    again = say("again")
    assert told.filter(again)
    assert again.getMessage() == f"again (and {50 - PER_MINUTE} more like it, a minute before)"
