"""A server that says what the real one would, from the storyworld's own teacher: no model, no wait.

For tests of the page and for working on it: `python tests/browser/stub.py 8000`. Its words are
labels (so their claims can be checked), its scores a function of the text. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import nlakit
from browser import stub_latents
from nlakit.fidelity_scale import ABOUT, FLOOR_LABELS, GRADES, FidelityScale
from nlakit.storyworld import claims as claims_
from nlakit.storyworld.grammar import document
from nlakit.storyworld.teacher import label

STATIC = Path(nlakit.__file__).parent / "serve" / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
D_MODEL, VARIANCE = 8, 0.9
FLOORS = {"mean": 0.0, "shuffled": -0.62, "empty": -0.11, "generic": 0.04, "zero_vector": 0.02}
SCALE = FidelityScale(FLOORS)
PASSAGES = (
    ("couplet", "A planned rhyme", "couplet", 5, 3),
    ("sums", "An unsaid sum", "sums", 5, 12),
    ("count", "A false tool count", "chat", 7, 1),
    ("drill", "A drill noticed", "chat", 5, 3),
    ("switch", "A switch of language", "spanish", 5, 3),
    ("story", "A story", "story", 5, 3),
)


@dataclass
class World:
    """What a stub is told to say. `script` overrides the words; `delay` slows each token down."""

    delay: float = 0.0
    hold_after: float = math.inf
    """Of a request so many results are sent; then words, and no more results until it is raised."""
    script: tuple[str, ...] = ()
    secret: str = ""
    failing: frozenset[int] = frozenset()
    down: bool = False
    """Cuts every connection, as a server does that was stopped."""
    latents: bool = False
    """Whether an autoencoder, a map of readings and a Jacobian lens are served, too."""
    chat: tuple[str, ...] = (" and", " so", " on", ".")
    queue: int = 0
    """Where in the queue a reading says it stands, until `served` is set."""
    served: threading.Event = field(default_factory=threading.Event)
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)


def _fraction(*seeds: object) -> float:
    digest = hashlib.sha256(repr(seeds).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def tokens_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """`TokenInfo` records of the text or the messages of a request: words with their space."""
    found: list[dict[str, Any]] = []
    messages = body.get("messages") or []
    for index, message in enumerate(messages):
        found.append(_token(f"<|{message['role']}|>", message["role"], "header", index))
        words = _split(message.get("content", ""))
        found += [_token(word, message["role"], "content", index) for word in words]
    if not messages:
        found = [_token("<s>", None, None, None), *(_token(w) for w in _split(body["text"]))]
    elif body.get("add_generation_prompt", True):
        found.append(_token("<|assistant|>", "assistant", "header", None))
    for position, token in enumerate(found):
        token["position"] = position
    return found


def _split(text: str) -> list[str]:
    return re.findall(r" ?[^\W\d_]+| ?\d+|\s+(?=\s)|\s|[^\w\s]|_", text)


def _token(
    text: str, role: str | None = None, section: str | None = None, index: int | None = None
) -> dict[str, Any]:
    return {
        "token": text,
        "token_id": int(_fraction(text) * 4000),
        "position": 0,
        "fragment_index": 0,
        "fragment_count": 1,
        "role": role,
        "section": section,
        "channel": None,
        "message_index": index,
    }


def result_of(world: World, body: dict[str, Any], tokens: list[Any], place: int) -> dict[str, Any]:
    """An `ExplainResult` with the fields of `/v1`."""
    ref = body.get("document") or {"seed": 5, "index": 3, "genre": "story"}
    made = document(ref["seed"], ref["index"], ref.get("genre"))
    char_end = sum(len(t["token"]) for t in tokens[: place + 1] if t["token"] != "<s>")
    place_in = min(char_end, len(made.text))
    samples = [
        _sample(world, made, place_in, (body.get("seed", 0), number, place))
        for number in range(body.get("samples", 1))
    ]
    state = made.state(place_in)
    known = body.get("document") is not None
    for sample in samples:
        sample["claims"] = _claims(sample["description"], state, known)
    best = max(samples, key=lambda each: each["fidelity"])
    extra = {"l2_norm": 11 + _fraction(place) * 4, "generated": False}
    word = {"word": SCALE.grade(best["fidelity"]).word, "samples": samples}
    unsaid = _unsaid(best["claims"], state) if known else None
    return {**tokens[place], **extra, **best, **word, "unsaid": unsaid}


def _unsaid(claims: list[dict[str, Any]], state: Any) -> list[dict[str, Any]]:
    """Facts of the state that no true claim names."""
    said = {claim["kind"] for claim in claims if claim["verdict"] == "true"}
    return [
        {
            "kind": kind,
            "value": str(value),
            "planned": kind in state.planned,
            "probe": _probe(kind, state.facts),
        }
        for kind, value in state.facts.items()
        if kind not in said
    ]


def _claims(text: str, state: Any, known: bool) -> list[dict[str, Any]]:
    """The claims of a text: a verdict where the document is known, a probe that reads the state."""
    return [
        {
            "kind": claim.kind,
            "value": claim.value,
            "start": claim.start,
            "end": claim.end,
            "verdict": claims_.check(claim, state) if known else None,
            "confidence": round(_fraction("c", text, claim.start), 2),
            "probe": _probe(claim.kind, state.facts),
        }
        for claim in claims_.parse(text)
    ]


def _probe(kind: str, facts: dict[str, str]) -> dict[str, Any] | None:
    if kind not in facts:
        return None
    accuracy = 0.25 if kind == "goal" else 0.95  # a goal is guessed at
    return {"value": facts[kind], "confidence": 0.9, "accuracy": accuracy, "chance": 0.2}


def _sample(world: World, made: Any, place: int, seeds: tuple[int, ...]) -> dict[str, Any]:
    if world.script:
        text = world.script[seeds[2] % len(world.script)]
    else:
        shift = 9 if _fraction(*seeds) < 0.2 else 0  # sometimes a label from further back: wrong
        text = label(made, max(0, place - shift), seed=seeds[1] + 97 * seeds[0]).text
    fidelity = 0.25 + 0.7 * _fraction("f", *seeds) ** 0.6 - (0.35 if seeds[2] % 11 == 4 else 0)
    mse = (1 - fidelity) * VARIANCE
    scores = {"fidelity": fidelity, "mse": mse, "cosine_similarity": 1 - mse / 2}
    return {"description": text, "closed": True, **scores}


def frames_of(world: World, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What `/v1/explain` streams, four positions at a time."""
    tokens = tokens_of(body)
    places = [p % len(tokens) for p in body.get("positions") or range(len(tokens))]
    yield {"layer_index": 4, "total": len(places), "prompt_length": len(tokens)}
    if world.queue:
        yield {"position_in_queue": world.queue, "done": False, "queued": True}
        world.served.wait()
    for start in range(0, len(places), 4):
        group = places[start : start + 4]
        results = {p: result_of(world, body, tokens, p) for p in group}
        for share in (0.3, 0.6, 0.9) if world.delay or start >= world.hold_after else ():
            for place, result in results.items():
                text = result["description"]
                raw = "<explanation>" + text[: int(len(text) * share)]
                yield {"position": place, "text": raw, "done": False}
            time.sleep(world.delay)
        while start >= world.hold_after and not world.down:
            time.sleep(0.01)
        if world.down:
            raise ConnectionAbortedError
        for place, result in results.items():
            bad = {"error": "the row was refused", "position": place}
            yield bad if place in world.failing else result


def _activation(token: dict[str, Any]) -> dict[str, Any]:
    vector = [round(_fraction(token["token"], token["position"], i) - 0.5, 6) for i in range(8)]
    names = ("token", "token_id", "position")
    return {**{name: token[name] for name in names}, "activation": vector, "l2_norm": 0.9}


def _scored(text: str) -> dict[str, float]:
    mse = VARIANCE * _fraction("s", text)
    return {"mse": mse, "cosine_similarity": 1 - mse / 2}


def answer(world: World, path: str, body: dict[str, Any]) -> Any:
    """The answer to a POST that is not a stream; None for an unknown path."""
    if path == "/tokenize":
        tokens = tokens_of(body)
        return {"tokens": tokens, "prompt_length": len(tokens), "text": ""}
    if path == "/completion":
        tokens = tokens_of(body)
        more = [_token(word) for word in world.chat]
        return {"tokens": tokens + more, "prompt_length": len(tokens), "text": ""}
    if path == "/v1/explain":
        results = [frame for frame in frames_of(world, body) if "description" in frame]
        return {"layer_index": 4, "results": results}
    if path == "/v1/steer":
        words = {"original": body["explanation"], "edited": body["edit"], "alpha": body["alpha"]}
        found = {"before": " by the mouse.", "after": " by the night.", "changed": True}
        return {**words, **found, "shift": 0.4, "kl_unrelated": 0.64, "position": body["position"]}
    if path == "/v1/lens":
        return stub_latents.lens(body["position"], body.get("lens", "logit"))
    if path.startswith("/v1/latents/"):
        return stub_latents.answer(path, body)
    if path == "/v1/extract":
        tokens = tokens_of(body)
        return {"layer_index": 4, "tokens": [_activation(tokens[p]) for p in body["positions"]]}
    if path in ("/score", "/compare"):
        words = {"description": "A shift of mood. It ends elsewhere.", "diff_norm": 4.2}
        return _scored(body.get("description", "")) | (words if path == "/compare" else {})
    if path == "/v1/describe":
        rows = range(len(body["activations"]))
        token = [_token(" x")] * len(rows)
        return {"results": [result_of(world, body, token, row) for row in rows]}
    return None


def chat_frames(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A streamed answer; words before "</think>" are thoughts."""
    end = words.index("</think>") if "</think>" in words else 0
    parts = {"thinking": words[:end], "content": words[end + 1 if end else 0 :]}
    for section, said in parts.items():
        yield from ({"type": "text", "section": section, "text": word} for word in said)
    message = {"role": "assistant", "content": "".join(parts["content"])}
    message["reasoning_content"] = "".join(parts["thinking"]) or None
    counts = {"prompt_tokens": 3, "completion_tokens": len(words), "notices": []}
    yield {"type": "done", "message": message, "finish_reason": "stop", **counts}


def passages() -> list[dict[str, Any]]:
    """The six cases, with documents of their genres."""
    found = []
    for name, case, genre, seed, index in PASSAGES:
        made = document(seed, index, genre)
        messages = [{"role": m.role, "content": m.content} for m in made.messages]
        found.append(
            {
                "id": name,
                "title": case,
                "case": case.lower(),
                "note": f"Watch what it holds in mind before it is said: {case.lower()}.",
                **({"messages": messages} if messages else {"text": made.text}),
                "document": {"seed": seed, "index": index, "genre": genre},
            }
        )
    return found


def models() -> list[dict[str, Any]]:
    """One small NLA."""
    words = {"name": "storyworld", "description": "Reads a small model of invented stories."}
    words["domain"] = "one invented world"
    sizes = {"layer": 4, "d_model": D_MODEL, "variance": VARIANCE, "max_tokens": 512}
    more = {
        "target": "storyworld",
        "can_chat": True,
        "can_complete": True,
        "warnings": [],
        "scale": scale(),
        "floors": FLOORS,
    }
    return [{**words, **sizes, **more, "fve": 0.71, "num_training_rows": 120_000}]


def scale() -> dict[str, Any]:
    """The scale as the server tells it."""
    ordered = sorted(FLOORS.items(), key=lambda item: -item[1])
    return {
        "low": SCALE.low,
        "knowing_nothing": SCALE.knowing_nothing,
        "floors": [
            {"name": name, "label": FLOOR_LABELS[name], "value": value} for name, value in ordered
        ],
        "grades": [
            {
                "key": each.key,
                "word": each.word,
                "threshold": None if each.threshold == float("-inf") else each.threshold,
                "meaning": each.meaning,
            }
            for each in GRADES
        ],
        "about": list(ABOUT),
    }


class _Handler(BaseHTTPRequestHandler):
    world: World
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silence: a test prints its own findings."""

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _refused(self) -> bool:
        if not self.world.secret or self.headers.get("X-SECRET-KEY") == self.world.secret:
            return False
        self._json({"detail": "X-SECRET-KEY header required"}, 401)
        return True

    def _cut(self) -> bool:
        if self.world.down:
            self.close_connection = True
            self.connection.close()
        return self.world.down

    def do_GET(self) -> None:
        if self._cut():
            return None
        parts = urlsplit(self.path)
        if parts.path == "/" or parts.path.startswith("/static/"):
            return self._file(parts.path)
        if self._refused():
            return None
        if parts.path == "/v1/models":
            has = {"has_latents": self.world.latents, "has_reading_map": self.world.latents}
            told = [{**each, **has, "has_jacobian_lens": self.world.latents} for each in models()]
            return self._json({"models": told})
        if parts.path == "/v1/passages":
            return self._json({"passages": passages()})
        if parts.path == "/v1/projects":
            return self._json({"projects": []})
        if parts.path == "/v1/reading-map":
            return self._json(stub_latents.reading_map())
        if parts.path.startswith("/v1/latents"):
            found = stub_latents.asked(parts.path)
            return self._json(found or {"detail": "Not Found"}, 200 if found else 404)
        return self._readings(parts.path, parse_qs(parts.query).get("q", [""])[0])

    def _file(self, path: str) -> None:
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        file = STATIC / name
        if ".." in name or not file.is_file():
            return self._json({"detail": "Not Found"}, 404)
        return self._send(200, file.read_bytes(), TYPES.get(file.suffix, "text/html"))

    def _readings(self, path: str, query: str) -> None:
        saved = self.world.readings
        if path == "/v1/readings":
            heads = [
                {"id": key, "title": each["title"]}
                for key, each in saved.items()
                if query.lower() in json.dumps(each).lower()
            ]
            return self._json({"readings": heads, "total": len(heads)})
        found = saved.get(path.rsplit("/", 1)[-1])
        return self._json(found or {"detail": "Not Found"}, 200 if found else 404)

    def do_DELETE(self) -> None:
        self.world.readings.pop(self.path.rsplit("/", 1)[-1], None)
        self._send(204, b"", "text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return None
        self.world.requests.append((self.path, body))
        if self.path == "/v1/readings":
            key = str(len(self.world.readings) + 1)
            self.world.readings[key] = {"id": key, **body}
            return self._json(self.world.readings[key], 201)
        if self._cut():
            return None
        if self.path == "/v1/explain" and body.get("stream"):
            return self._stream(frames_of(self.world, body))
        if self.path == "/v1/chat":
            return self._stream(chat_frames(self.world.chat))
        found = answer(self.world, self.path, body)
        return self._json(found or {"detail": "Not Found"}, 200 if found else 404)

    def _stream(self, frames: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for frame in frames:
                self.wfile.write(f"data: {json.dumps(frame)}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # the reader cancelled
        except ConnectionAbortedError:
            self.connection.close()


def serve(world: World, port: int = 0) -> ThreadingHTTPServer:
    """Starts serving on 127.0.0.1 in a thread; `shutdown()` ends it."""
    handler = type("Handler", (_Handler,), {"world": world})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    running = serve(World(delay=0.15), int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    print(f"http://127.0.0.1:{running.server_port}")
    threading.Event().wait()
