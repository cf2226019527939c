"""Hostile and unusual requests, one probe a finding: `attacks.py` sends them to two servers.

Each probe gets a running server of the bundled pair, and says whether it holds and what was seen.
Only what both sources speak is used: the wire interface, health and saved readings.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx2

Outcome = tuple[bool, str]
PATIENCE_S = 12.0
PROBES: dict[str, Callable[[Server], Outcome]] = {}
TOKENIZATIONS, SAVES, SILENT = 150, 45, 1100
MIB = 1 << 20


class Server(NamedTuple):
    """A server under attack.

    Attributes:
        database: the file of saved readings.
        peak_mb: the highest memory so far.
        tracebacks: how many its log shows.
        guarded: the same with a secret.
    """

    url: str
    database: Any
    peak_mb: Callable[[], float]
    tracebacks: Callable[[], int]
    guarded: str
    d_model: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=60, **options)


def probe(function: Callable[[Server], Outcome]) -> Callable[[Server], Outcome]:
    PROBES[function.__name__] = function
    return function


def vectors(server: Server, count: int) -> list[list[float]]:
    return [[(place + 1) % 7 - 3.0 for place in range(server.d_model)]] * count


def status_is(expected: int, found: httpx2.Response) -> Outcome:
    return found.status_code == expected, f"{found.status_code} {found.text[:70]}"


# -- high ------------------------------------------------------------------------------------------
@probe
def text_and_chat_clients_side_by_side(server: Server) -> Outcome:
    turn = {"role": "user", "content": "The <|user|> cat sat. " * 4}
    chat = {"messages": [turn, {"role": "assistant", "content": "It sat."}] * 4}
    text = {"text": "The <|user|> cat sat on the mat. " * 24}
    alone = server.post("/tokenize", chat).json()

    def ask(number: int) -> bool:
        found = server.post("/tokenize", chat if number % 2 else text).json()
        return number % 2 == 0 or found == alone

    with ThreadPoolExecutor(6) as pool:
        right = list(pool.map(ask, range(2 * TOKENIZATIONS)))
    return all(right), f"{right.count(False)} of {TOKENIZATIONS} chat answers are wrong"


@probe
def an_answer_of_one_token_beside_others(server: Server) -> Outcome:
    long = {"activations": vectors(server, 20), "max_new_tokens": 40}
    short = {"activations": vectors(server, 3), "max_new_tokens": 1}
    lost = 0
    with ThreadPoolExecutor(1) as pool:
        for _ in range(4):
            asked = pool.submit(server.post, "/describe", long)
            while not asked.done():
                server.post("/describe", short)
            answer = asked.result()
            rows = answer.json().get("results", []) if answer.status_code == 200 else []
            lost += 20 - sum(bool(row["description"]) and "error" not in row for row in rows)
    return lost == 0, f"{lost} of 80 rows of another client are lost"


@probe
def a_tiny_temperature(server: Server) -> Outcome:
    body = {"activations": vectors(server, 2), "max_new_tokens": 8}
    greedy, tiny = (server.post("/describe", body | {"temperature": t}) for t in (0, 1e-46))
    same = greedy.json() == tiny.json()
    return same, "as greedy" if same else f"{tiny.status_code} {tiny.text[:70]}"


@probe
def a_comparison_that_fails(server: Server) -> Outcome:
    one, two = vectors(server, 1)[0], [0.0] * server.d_model
    body = {"activation_a": one, "activation_b": two, "temperature": 1e-46, "max_new_tokens": 8}
    found = server.post("/compare", body)
    held = found.status_code == 503 or bool(found.json().get("description"))
    return held, f"{found.status_code} {found.text[:50]}"


@probe
def a_rendered_chat_sent_back_as_text(server: Server) -> Outcome:
    messages = [
        {"role": "user", "content": "Hello there."},
        {"role": "assistant", "content": "Hi."},
    ]
    rendered = server.post("/tokenize", {"messages": messages}).json()
    again = server.post("/tokenize", {"text": rendered["text"]}).json()
    ids = [[token["token_id"] for token in each["tokens"]] for each in (rendered, again)]
    return ids[0] == ids[1], f"{len(ids[0])} tokens become {len(ids[1])}"


@probe
def a_large_body_without_the_secret(server: Server) -> Outcome:
    raw = b'{"title": "a", "reading": {"x": [' + b"[]," * (4 * MIB) + b"[]]}}"
    before = server.peak_mb()
    headers = {"Content-Type": "application/json"}
    path = f"{server.guarded}/v1/readings"
    found = httpx2.post(path, content=raw, headers=headers, timeout=60)
    more = server.peak_mb() - before
    return found.status_code in (401, 413) and more < 60, f"{found.status_code}, {more:.0f} MB more"


@probe
def a_large_body_with_nothing_to_show_for_it(server: Server) -> Outcome:
    raw = b'{"text": "a", "positions": [' + b"1," * (4 * MIB) + b"1]}"
    before, headers = server.peak_mb(), {"Content-Type": "application/json"}
    found = httpx2.post(f"{server.url}/explain", content=raw, headers=headers, timeout=60)
    more = server.peak_mb() - before
    return found.status_code == 413 and more < 60, f"{found.status_code}, {more:.0f} MB more"


@probe
def a_half_sent_body(server: Server) -> Outcome:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(head("/tokenize", 500) + b'{"text"')
        return answered(connection)


def head(path: str, length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def answered(connection: socket.socket) -> Outcome:
    """Whether anything comes, an end included, in a while."""
    try:
        found = connection.recv(4096)
    except TimeoutError:
        return False, f"nothing for {PATIENCE_S:g} s"
    except ConnectionError:
        return True, "the connection is ended"
    return True, found.partition(b"\r\n")[0].decode() or "the connection is ended"


@contextlib.contextmanager
def the_two_largest_requests(server: Server) -> Iterator[None]:
    """512 vectors in 16 samples each, twice, whose answers nobody reads."""
    body = {"activations": vectors(server, 512), "samples": 16, "temperature": 1, "stream": True}
    raw = json.dumps(body | {"max_new_tokens": 60}).encode()
    with contextlib.ExitStack() as open_connections:
        for name in ("one", "two"):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            open_connections.enter_context(connection)
            start = head("/v1/describe", len(raw))
            connection.sendall(start[:-2] + f"X-Client-Id: {name}\r\n\r\n".encode() + raw)
            connection.recv(64)
        yield


@probe
def one_position_beside_the_two_largest_requests(server: Server) -> Outcome:
    body = {"activations": vectors(server, 1), "max_new_tokens": 4}
    with the_two_largest_requests(server):
        found = server.post("/describe", body, headers={"X-Client-Id": "three"})
    return found.status_code == 200, f"{found.status_code} {found.text[:60]}"


# -- medium ----------------------------------------------------------------------------------------
@probe
def silent_connections(server: Server) -> Outcome:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(SILENT)]
    try:
        found = httpx2.get(f"{server.url}/v1/health", timeout=PATIENCE_S)
        return found.status_code == 200, f"{found.status_code} beside {SILENT} of them"
    except httpx2.HTTPError as error:
        return False, f"{type(error).__name__} beside {SILENT} of them"
    finally:
        for connection in silent:
            connection.close()


@probe
def a_locked_database(server: Server) -> Outcome:
    blocker = sqlite3.connect(server.database, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    body = {"title": "a", "reading": {}}
    with ThreadPoolExecutor(SAVES) as pool:
        saves = [pool.submit(server.post, "/v1/readings", body) for _ in range(SAVES)]
        time.sleep(1)
        try:
            path = f"{server.url}/tokenize"
            httpx2.post(path, json={"text": "a"}, timeout=PATIENCE_S)
            found: Outcome = (True, "/tokenize is answered")
        except httpx2.TimeoutException:
            found = False, f"/tokenize: nothing for {PATIENCE_S:g} s"
        blocker.execute("ROLLBACK")
        blocker.close()
        for save in saves:
            with contextlib.suppress(httpx2.HTTPError):
                save.result()
    return found


@probe
def forwarded_headers(server: Server) -> Outcome:
    """Whoever is believed to be many addresses has the places of all of them."""
    body = {"activations": vectors(server, 1), "max_new_tokens": 400, "stream": True}
    raw, statuses = json.dumps(body).encode(), []
    with contextlib.ExitStack() as open_connections:
        for number in range(140):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            open_connections.enter_context(connection)
            more = f"X-Forwarded-For: 10.0.0.{number}\r\nX-Client-Id: {number}\r\n\r\n".encode()
            connection.sendall(head("/describe", len(raw))[:-2] + more + raw)
            statuses.append(connection)
        taken = sum(each.recv(12).endswith(b"200") for each in statuses)
    return taken < 128, f"{taken} of 140 are taken in"


# -- low -------------------------------------------------------------------------------------------
@probe
def a_database_that_was_removed(server: Server) -> Outcome:
    for path in server.database.parent.glob(f"{server.database.name}*"):
        path.unlink()
    found = server.post("/v1/readings", {"title": "a", "reading": {}})
    if found.status_code != 201:
        return found.status_code == 503, f"{found.status_code}"
    try:
        with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
            count = database.execute("SELECT count(*) FROM readings").fetchone()[0]
    except sqlite3.Error as error:
        return False, f"201, and then: {error}"
    return count == 1, f"201, and {count} on the disk"


@probe
def a_client_that_leaves_in_the_middle_of_its_body(server: Server) -> Outcome:
    before = server.tracebacks()
    for path in ("/tokenize", "/v1/describe", "/v1/readings"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(path, 500) + b'{"text"')
    httpx2.get(f"{server.url}/v1/health")
    time.sleep(0.5)
    more = server.tracebacks() - before
    return more == 0, f"{more} tracebacks in the log"


@probe
def deep_json_in_a_body(server: Server) -> Outcome:
    headers = {"Content-Type": "application/json"}
    raw = b'{"text": "a", "positions": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    found = httpx2.post(f"{server.url}/explain", content=raw, headers=headers)
    return status_is(422, found)


@probe
def references_in_the_served_description(server: Server) -> Outcome:
    spec = httpx2.get(f"{server.url}/v1/openapi.json").json()
    names = set(spec.get("components", {}).get("schemas", {}))
    asked = {part.split('"')[0] for part in json.dumps(spec).split("#/components/schemas/")[1:]}
    return asked <= names, f"dangling: {', '.join(sorted(asked - names)) or 'none'}"


# -- wire ------------------------------------------------------------------------------------------
@probe
def a_role_and_a_channel_of_any_words(server: Server) -> Outcome:
    said = [{"role": "user", "content": "a", "channel": ""}]
    first = server.post("/tokenize", {"messages": said})
    other = server.post("/tokenize", {"messages": [{"role": "some role", "content": "a"}]})
    held = first.status_code == 200 and other.status_code != 422
    return held, f'channel "": {first.status_code}, another role: {other.status_code}'


@probe
def completion_tokens_beyond_31_bits(server: Server) -> Outcome:
    text = "The cat sat on the mat. " * 20
    return status_is(200, server.post("/completion", {"text": text, "completion_tokens": 2**31}))


@probe
def a_position_of_31_digits(server: Server) -> Outcome:
    return status_is(400, server.post("/explain", {"text": "a cat", "positions": [10**30]}))


@probe
def a_vector_of_no_numbers(server: Server) -> Outcome:
    return status_is(400, server.post("/describe", {"activations": [[]]}))


@probe
def the_message_for_a_long_chat(server: Server) -> Outcome:
    found = server.post("/tokenize", {"messages": [{"role": "user", "content": "a" * 70_000}]})
    expected = "Rendered chat exceeds 65536 chars."
    return found.json().get("detail") == expected, f"{found.status_code} {found.text[:70]}"


@probe
def a_message_held_open_before_a_generation_prompt(server: Server) -> Outcome:
    body = {"messages": [{"role": "user", "content": "a"}], "continue_final_message": True}
    return status_is(400, server.post("/tokenize", body))


@probe
def the_last_progress_frame(server: Server) -> Outcome:
    body = {"activations": vectors(server, 3), "max_new_tokens": 12, "stream": True}
    lines = server.post("/describe", body).text.splitlines()
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    words: dict[int, str] = {}
    short = 0
    for each in frames:
        if each.get("done") is False and "text" in each:
            words[each["index"]] = each["text"]
        elif "description" in each:
            short += each["description"] not in words.get(each["index"], "")
    return short == 0, f"{short} of 3 end before their last words"


@probe
def the_text_of_a_completion(server: Server) -> Outcome:
    found = server.post("/completion", {"text": "The cat", "completion_tokens": 3}).json()
    bos = found["tokens"][0]["token"]
    return found["text"].startswith(bos), f"{found['text'][:30]!r} after {bos!r}"
