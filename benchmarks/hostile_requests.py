"""Requests that nobody should send, made from a seed: `hostile.py` sends them.

Each is bytes for a socket and what its sender does then. None asks for much work: what is slow here
is slow because of how it is asked.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

ROUTES = (
    *("/tokenize", "/completion", "/explain", "/extract", "/describe", "/score", "/compare"),
    *("/v1/explain", "/v1/describe", "/v1/extract", "/v1/readings"),
)
PROMPT_ROUTES = ("/tokenize", "/completion", "/explain", "/extract", "/v1/explain", "/v1/extract")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get")
TEXTS = (
    *(
        "",
        " ",
        "a",
        "\x00",
        "\u202e",
        "\ufffd",
        "🐈" * 40,
        "e\u0301" * 30,
        "漢字" * 40,
        "\r\n" * 50,
    ),
    *("<|bos|>", "<|user|>hi<|assistant|>", "<|eos|>" * 20, "㈎", "<concept>", "</explanation>"),
    *("{{ 7 * 7 }}", "{% for x in range(10**9) %}{% endfor %}", "a" * 5000, "../../etc/passwd"),
    *("'; DROP TABLE readings; --", "<script>alert(1)</script>", "\x1b[2J\x07", "%s%n%x" * 20),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, -(2**31) - 1, 2**63, 10**30, -(10**300), 0.5, 1e-300),
    *(1e-46, 5e-324, 1e308, "", "a", "0.5", [], {}, [[]], [{}], {"a": {"a": {}}}, [None], ["x"]),
)
NUM_TOKENS = ("max_new_tokens", "completion_tokens")
HEADERS = (
    *("X-Client-Id: " + "x" * 200, "X-Client-Id: \t", "X-Forwarded-For: 1.2.3.4, 5.6.7.8"),
    *("Accept: text/html", "Accept: application/octet-stream", "Origin: http://evil.example"),
    *("Origin: null", "Cookie: a=b; " * 50, "Range: bytes=0-", "If-None-Match: *", "Expect: 100"),
    *("Upgrade: h2c\r\nConnection: Upgrade", "Upgrade: websocket\r\nConnection: Upgrade"),
    *("X-SECRET-KEY: ", "X-SECRET-KEY: " + "k" * 4000, "Content-Encoding: gzip", "TE: trailers"),
)


class Attack(NamedTuple):
    """One request.

    Attributes:
        kind: what it tries.
        raw: what is sent.
        leaves: "reads" to the end; "goes" after some bytes of the answer; "resets" at once;
            "stalls" for a second without reading; "waits" a moment without an end of its request.
    """

    kind: str
    raw: bytes
    leaves: str = "reads"


def attacks(seed: int, count: int, d_model: int) -> Iterator[Attack]:
    """So many of them, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice(KINDS)(rng, d_model)


# -- parts -----------------------------------------------------------------------------------------
def request(
    method: str,
    path: str,
    body: bytes = b"",
    *headers: str,
    host: str = "127.0.0.1",
    kind: str = "application/json",
) -> bytes:
    """A request with a true length."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", *headers]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    return head.encode("utf-8", "surrogateescape") + body


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def text_of(rng: random.Random) -> str:
    return "".join(rng.choice(TEXTS) for _ in range(rng.randint(0, 4)))


def vector(rng: random.Random, d_model: int) -> list[Any]:
    """Of about the right length; some numbers are none."""
    length = rng.choice([d_model, d_model, d_model, 0, 1, d_model + 1])
    made: list[Any] = [rng.choice([0.0, 1.0, -1e38, 3e38, 1e-45, rng.gauss(0, 1)])] * length
    for _ in range(rng.choice([0, 0, 3])):
        if made:
            made[rng.randrange(len(made))] = rng.choice(VALUES)
    return made


def message(rng: random.Random) -> dict[str, Any]:
    roles = ["user", "assistant", "system", "tool", "", "a|><|b", "x" * 300, "\x00", *TEXTS]
    made: dict[str, Any] = {"role": rng.choice(roles), "content": text_of(rng)}
    if rng.random() < 0.3:
        made[rng.choice(["channel", "name", "tool_calls", "thinking"])] = rng.choice(VALUES)
    return made


def prompt(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"text": text_of(rng)}
    return {"messages": [message(rng) for _ in range(rng.randint(0, 5))]}


def body_for(rng: random.Random, path: str, d_model: int) -> dict[str, Any]:
    """Nearly what a route asks for, and little of it."""
    small = {
        "temperature": rng.choice([0, 0.7, 5, 1e-300, 1e-46, 1e-5]),
        "max_new_tokens": rng.choice([1, 2, 12]),
        "stream": rng.random() < 0.5,
        "positions": [rng.choice([0, -1, 0, 10**30, -(2**31), 5])] * rng.randint(1, 3),
        "samples": rng.choice([1, 2]),
        "top_p": rng.choice([1.0, 1e-9, 0.5]),
        "seed": rng.choice([0, 2**63 - 1]),
        "completion_tokens": rng.choice([1, 3, 2]),
    }
    if path in PROMPT_ROUTES:
        return {**prompt(rng), **small}
    if path.endswith("/describe"):
        return {"activations": [vector(rng, d_model) for _ in range(rng.randint(0, 3))], **small}
    if path == "/score":
        return {"description": text_of(rng), "activation": vector(rng, d_model)}
    if path == "/compare":
        pair = {f"activation_{name}": vector(rng, d_model) for name in "ab"}
        return {**pair, "temperature": small["temperature"], "max_new_tokens": 2}
    return {"title": text_of(rng)[:150] or "a", "reading": {"text": text_of(rng), "n": [1, None]}}


def is_large(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 2


# -- kinds -----------------------------------------------------------------------------------------
def odd_fields(rng: random.Random, d_model: int) -> Attack:
    """A valid body in which some fields are something else, or gone."""
    path = rng.choice(ROUTES)
    body = body_for(rng, path, d_model)
    for _ in range(rng.randint(0, 2)):
        name = rng.choice([*body, "unknown", "document", "tools", "enable_thinking"])
        if name in NUM_TOKENS:  # without a small one a valid request is long work
            body[name] = rng.choice([value for value in VALUES if not is_large(value)])
        elif rng.random() < 0.3:
            body.pop(name, None)
        else:
            body[name] = rng.choice(VALUES)
    return Attack("odd fields", request("POST", path, dumped(body)))


def valid(rng: random.Random, d_model: int) -> Attack:
    """What should be answered, beside all that."""
    path = rng.choice(ROUTES)
    return Attack("valid", request("POST", path, dumped(body_for(rng, path, d_model))))


def malformed(rng: random.Random, d_model: int) -> Attack:
    """Bytes that are no JSON, or JSON that no parser should follow."""
    path = rng.choice(ROUTES)
    good = dumped(body_for(rng, path, d_model))
    bodies = (
        good[: rng.randrange(len(good))],
        good + rng.choice([b"}", b",", b"\x00", b" {}"]),
        bytes(rng.randrange(256) for _ in range(rng.randint(1, 200))),
        b"[" * rng.choice([200, 3000, 60_000]),
        b'{"a":' * 3000,
        b'{"text": ' + b"9" * rng.choice([400, 5000]) + b"}",
        b'{"text": "\\ud83d"}',
        b'{"text": "' + bytes([rng.randrange(128, 256)]) + b'"}',
        b'{"activations": [[' + rng.choice([b"NaN", b"1e999", b"-Infinity", b"1e-9999"]) + b"]]}",
        good.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + good,
    )
    return Attack("malformed JSON", request("POST", path, rng.choice(bodies)))


def many(rng: random.Random, d_model: int) -> Attack:
    """Bodies of many small things: cheap to send, dear to parse."""
    path = rng.choice(ROUTES)
    unit = rng.choice([b"[],", b"{},", b"1,", b'"x",', b"null,"])
    number = rng.choice([1000, 20_000, 100_000])
    field = rng.choice([b"activations", b"messages", b"positions", b"reading", b"unknown", b"text"])
    few = b'"max_new_tokens": 2, "completion_tokens": 2, '
    body = b'{"title": "a", "text": "a", ' + few + b'"' + field + b'": [' + unit * number + b"0]}"
    return Attack("many members", request("POST", path, body))


def large(rng: random.Random, d_model: int) -> Attack:
    """Bodies beyond every bound; most of it is never sent."""
    path = rng.choice([*ROUTES, "/nowhere", "/v1/health"])
    length = rng.choice([2 * 10**6, 10**8, 10**12, 10**30])
    head = request("POST", path).replace(b"Content-Length: 0", b"Content-Length: %d" % length)
    return Attack("large body", head + b"x" * rng.choice([0, 1000, 200_000]), "waits")


def half_sent(rng: random.Random, d_model: int) -> Attack:
    """Clients that leave in the middle of a head, of a body, or of an answer."""
    path = rng.choice(ROUTES)
    whole = request("POST", path, dumped(body_for(rng, path, d_model)))
    leaves = rng.choice(["goes", "resets", "waits", "stalls"])
    if leaves in ("goes", "stalls"):
        return Attack("client that leaves", whole, leaves)
    return Attack("client that leaves", whole[: rng.randrange(1, len(whole))], leaves)


def no_http(rng: random.Random, d_model: int) -> Attack:
    """Bytes that are not HTTP, or HTTP that contradicts itself."""
    get = request("GET", "/v1/health")
    post = request("POST", "/tokenize", b'{"text": "a"}')
    raws = (
        bytes(rng.randrange(256) for _ in range(rng.randint(1, 400))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(60),
        get.replace(b"HTTP/1.1", rng.choice([b"HTTP/9.9", b"HTTP/0.9", b"", b"FTP/1.0"])),
        get.replace(b"Host: 127.0.0.1\r\n", rng.choice([b"", b"Host: a\r\nHost: b\r\n"])),
        get.replace(b"/v1/health", b"/" + b"a" * rng.choice([100, 9000, 70_000])),
        get.replace(b"/v1/health", bytes([rng.randrange(1, 33)])),
        get.replace(b"\r\n\r\n", b"\r\nX: " + b"b" * rng.choice([5000, 90_000]) + b"\r\n\r\n"),
        get.replace(b"\r\n\r\n", b"\r\n" + b"A: b\r\n" * rng.choice([200, 3000]) + b"\r\n"),
        get.replace(b"\r\n", b"\n"),
        post.replace(b"Content-Length: 13", b"Content-Length: -1"),
        post.replace(b"Content-Length: 13", b"Content-Length: 13\r\nContent-Length: 14"),
        post.replace(b"Content-Length: 13", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        post.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked") + b"\r\nzz\r\n",
        post.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked, identity"),
        post.replace(b"Connection: close", b"Connection: keep-alive") * 3 + b"\x00garbage",
    )
    return Attack("no HTTP", rng.choice(raws), rng.choice(["reads", "reads", "waits"]))


def odd_paths(rng: random.Random, d_model: int) -> Attack:
    """Every method on every path, and paths that lead out of the page's directory."""
    paths = (
        *(*ROUTES, "/", "/metrics", "/v1/health", "/v1/models", "/v1/passages", "/v1/openapi.json"),
        *("/static/../app.py", "/static/%2e%2e/%2e%2e/app.py", "/static//etc/passwd", "/static/"),
        *("//", "/.git/config", "/%00", "/v1/readings/" + "0" * 24, "/v1/readings/../../x"),
        *("/v1/readings?q=" + quote(text_of(rng)), "/v1/readings?limit=1e9&offset=-1"),
        *("/v1/readings?q=%FF&limit=5", "/v1/readings?offset=" + "9" * 40, "/?" + "a=b&" * 300),
    )
    headers = rng.sample(HEADERS, rng.randint(0, 3))
    return Attack("odd path", request(rng.choice(METHODS), rng.choice(paths), b"", *headers))


def odd_heads(rng: random.Random, d_model: int) -> Attack:
    """Valid bodies under odd heads."""
    path = rng.choice(ROUTES)
    host = rng.choice(["127.0.0.1", "localhost:1", "[::1]", "evil.example", "", "a@b", "127.1"])
    kind = rng.choice(["application/json", "text/plain", "", "application/json;" * 40, "\x01"])
    body = dumped(body_for(rng, path, d_model))
    headers = rng.sample(HEADERS, rng.randint(0, 3))
    return Attack("odd head", request("POST", path, body, *headers, host=host, kind=kind))


def tensors(rng: random.Random, d_model: int) -> Attack:
    """Files of vectors that are none."""
    entry = {"dtype": "F32", "shape": [1, d_model], "data_offsets": [0, 4 * d_model]}
    header: dict[str, Any] = {"vectors": dict(entry)}
    fields = {
        "dtype": ["F16", "BF16", "F8_E4M3", "I64", "BOOL", "C64", "x", 3, None],
        "shape": [[], [d_model], [-1, d_model], [2**40, 2**40], [0, d_model], "x", [1, 1, d_model]],
        "data_offsets": [[0, 4], [4, 0], [-4, 4], [0, 2**62], [], None],
    }
    name = rng.choice([*fields, "nothing"])
    if name in fields:
        header["vectors"][name] = rng.choice(fields[name])
    if rng.random() < 0.2:
        header = {f"v{number}": dict(entry) for number in range(500)}
    raw = json.dumps(header).encode()
    data = rng.choice(
        [bytes(4 * d_model), b"\xff" * 4 * d_model, b"", b"\x00\x00\xc0\x7f" * d_model]
    )
    length = rng.choice([len(raw), len(raw), len(raw), 2**63, 10**9, 0])
    body = struct.pack("<Q", length) + raw + data
    if rng.random() < 0.2:
        body = body[: rng.randrange(len(body))]
    query = rng.choice(["", "?samples=2&stream=true", "?samples=99", "?temperature=x", "?seed=-1"])
    path = "/v1/describe" + query + ("&" if query else "?") + "max_new_tokens=2"
    return Attack("tensors", request("POST", path, body, kind="application/octet-stream"))


KINDS: tuple[Callable[[random.Random, int], Attack], ...] = (
    *(odd_fields, odd_fields, odd_fields, valid, malformed, many, large, half_sent, no_http),
    *(odd_paths, odd_heads, tensors),
)
