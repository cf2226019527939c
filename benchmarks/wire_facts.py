"""The facts of the wire interface, asked of a running server one by one.

    python -m benchmarks.wire_facts [--nla bundled] [--output FILE]

Existing clients rely on these facts; `docs/wire-api.md` says what is decided where they leave
something open. Tokens and spans are computed a second time, by the rules that the interface states,
from the tokenizer alone. Prints one JSON object: how many facts hold, and each difference. The exit
status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from benchmarks.serve_load import save
from benchmarks.served import serve
from nlakit.models.io import load_tokenizer
from nlakit.registry import resolve

SECRET = "open-sesame"  # noqa: S105 - of a server that lives for seconds
SPAN = ("role", "section", "channel", "message_index")
INFO = ("token", "token_id", "position", "fragment_index", "fragment_count", *SPAN)
RESULT = (
    *("token", "token_id", "position", "l2_norm", "description", "mse", "cosine_similarity"),
    *("generated", "fragment_index", "fragment_count", *SPAN),
)
STATUS = (
    *("status", "verbalizer_model", "d_model", "verbalizer_quantization"),
    *("verbalizer_kv_cache_dtype", "verbalizer_cuda_graph_max_bs", "verbalizer_torch_compile"),
    *("verbalizer_device", "reconstructor_available", "reconstructor_fp8", "reconstructor_int4"),
    *("reconstructor_device", "source_model", "extraction_layer", "source_truncated"),
    *("source_fp8", "source_device", "completion_available", "num_cuda_devices"),
    *("max_concurrent", "max_concurrent_explains", "source_max_concurrent"),
    *("reconstructor_max_concurrent", "max_describe_requests", "limits"),
)
TEXT = "The lonely rose shone near the house,\nInes"
TEXTS = (TEXT, "a", " leading", "two\n\nlines\n", "漢字 and 🐈 and é", "x" * 40, "1 + 2 = 3.")
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
    [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}],
    [{"role": role, "content": f"say {role}"} for role in ("user", "assistant") * 3],
    [{"role": "user", "content": "漢字 🐈"}, {"role": "assistant", "content": "é\nè"}],
)
NO_PROMPT = {"add_generation_prompt": False}
SHORT = {"max_new_tokens": 6, "temperature": 0}


class Wire(NamedTuple):
    """A server with a secret, and the target's tokenizer."""

    url: str
    tokenizer: Any
    d_model: int

    def post(self, path: str, body: Any, key: str | None = SECRET) -> httpx2.Response:
        return self.raw(path, json.dumps(body), key)

    def raw(self, path: str, content: str, key: str | None = SECRET) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        headers |= {} if key is None else {"X-SECRET-KEY": key}
        return httpx2.post(f"{self.url}{path}", content=content, headers=headers, timeout=120)

    def detail(self, path: str, body: Any) -> tuple[int, Any]:
        found = self.post(path, body)
        return found.status_code, found.json().get("detail")

    def frames(self, path: str, body: Any) -> list[dict[str, Any]]:
        """The frames of a stream, without its `[DONE]`."""
        *lines, done = self.post(path, body | {"stream": True}).text.split("\n\n")[:-1]
        assert done == "data: [DONE]", done
        return [json.loads(line[6:]) for line in lines if not line.startswith(":")]

    def vectors(self, count: int) -> list[list[float]]:
        return [
            [float((row + place) % 5 - 2) for place in range(self.d_model)] for row in range(count)
        ]


Fact = Callable[[Wire], bool]
FACTS: dict[str, Fact] = {}


def fact(words: str) -> Callable[[Fact], Fact]:
    def keep(holds: Fact) -> Fact:
        FACTS[words] = holds
        return holds

    return keep


# -- conventions -----------------------------------------------------------------------------------
FACTS |= {
    "unknown request fields are ignored": lambda w: (
        w.post("/tokenize", {"text": "a", "nonsense": 1}).status_code == 200
    ),
    "a missing secret is 401, with its words": lambda w: (
        (found := w.post("/tokenize", {"text": "a"}, None)).status_code == 401
        and found.json() == {"detail": "X-SECRET-KEY header required"}
    ),
    "a wrong secret is 403, with its words": lambda w: (
        (found := w.post("/tokenize", {"text": "a"}, "wrong")).status_code == 403
        and found.json() == {"detail": "Invalid secret key"}
    ),
    "malformed JSON is 422 before the secret": lambda w: (
        w.raw("/explain", "{", None).status_code == 422
    ),
    "bad fields without the secret are 401": lambda w: (
        w.post("/explain", {"temperature": "hot"}, None).status_code == 401
    ),
    "validation is 422 in FastAPI's list form": lambda w: (
        (found := w.detail("/explain", {"text": "a", "temperature": 9}))[0] == 422
        and {"type", "loc", "msg"} <= set(found[1][0])
    ),
    "neither text nor messages is 400, with its words": lambda w: (
        w.detail("/tokenize", {}) == (400, "Provide either `text` or `messages`.")
    ),
    "a position out of range is 400, with the range": lambda w: (
        w.detail("/explain", {"text": TEXT, "positions": [10**6]})
        == (400, f"Position 1000000 out of range (0..{len(ids_of(w, TEXT)) - 1})")
    ),
    "a vector of another length is 400, with both": lambda w: (
        w.detail("/describe", {"activations": [[1.0] * 3]})
        == (400, f"Vector length 3 != d_model {w.d_model}")
    ),
    "more than 512 resolved positions are 400": lambda w: (
        w.detail("/explain", {"text": "a " * 700})[0] == 400
    ),
    "more than 512 positions are 422": lambda w: (
        w.detail("/explain", {"text": "a", "positions": [0] * 513})[0] == 422
    ),
    "a text beyond 65536 characters is 422": lambda w: (
        w.detail("/tokenize", {"text": "a" * 65_537})[0] == 422
    ),
    "a NaN in a vector is 422": lambda w: (
        w.raw("/describe", '{"activations": [[NaN]]}').status_code == 422
    ),
}


@fact("streams are server-sent events of one line, without names, that end in [DONE]")
def _streams(wire: Wire) -> bool:
    found = wire.post("/explain", {"text": "a b", "stream": True, **SHORT})
    parts = found.text.split("\n\n")
    kind = found.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = all(part.startswith(("data: ", ":")) and "\n" not in part for part in parts[:-1])
    return found.status_code == 200 and kind and lines and parts[-2:] == ["data: [DONE]", ""]


# -- tokens and spans ------------------------------------------------------------------------------
def ids_of(wire: Wire, text: str) -> list[int]:
    """`tokenizer(text, add_special_tokens = not text.startswith(bos))`"""
    bos = wire.tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    return list(wire.tokenizer(text, add_special_tokens=special)["input_ids"])


@fact("tokens of a text are the tokenizer's, with BOS once")
def _text_tokens(wire: Wire) -> bool:
    bos = wire.tokenizer.bos_token or ""
    return all(
        [each["token_id"] for each in wire.post("/tokenize", {"text": text}).json()["tokens"]]
        == ids_of(wire, text)
        for text in (*TEXTS, *(bos + text for text in TEXTS))
    )


@fact("a text has no spans, and fields that are null are sent")
def _no_spans(wire: Wire) -> bool:
    found = wire.post("/tokenize", {"text": TEXT}).json()
    keys = set(found) >= {"tokens", "prompt_length", "text"}
    tokens = found["tokens"]
    return keys and all(tuple(t) == INFO and not any(t[n] for n in SPAN[:3]) for t in tokens)


@fact("messages win over a text")
def _messages_win(wire: Wire) -> bool:
    found = wire.post("/tokenize", {"text": "other", "messages": CHATS[0]}).json()
    return found == wire.post("/tokenize", {"messages": CHATS[0]}).json()


@fact("tokens and spans of messages are those of the stated rules")
def _spans(wire: Wire) -> bool:
    return not list(span_differences(wire))


def span_differences(wire: Wire) -> Iterator[str]:
    for messages in CHATS:
        for asked in ({}, NO_PROMPT, NO_PROMPT | {"continue_final_message": True}):
            found = wire.post("/tokenize", {"messages": messages, **asked}).json()["tokens"]
            ours = [(each["token_id"], *(each[name] for name in SPAN)) for each in found]
            stated = spans_by_the_rules(wire, messages, **asked)
            if ours != stated:
                places = (
                    n
                    for n, pair in enumerate(zip(ours, stated, strict=False))
                    if pair[0] != pair[1]
                )
                first = next(places, min(len(ours), len(stated)))
                yield f"{messages} {asked}: {ours[first:][:1]}, by the rules {stated[first:][:1]}"


def spans_by_the_rules(
    wire: Wire,
    messages: list[dict[str, str]],
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> list[tuple[Any, ...]]:
    """Boundaries by common prefixes of renderings, as the interface states them."""

    def encoded(some: list[dict[str, str]], **options: bool) -> list[int]:
        rendered = wire.tokenizer.apply_chat_template(some, tokenize=False, **options)
        return ids_of(wire, rendered)

    ids = encoded(
        messages,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )
    ends = [common(ids, encoded(messages[: n + 1])) for n in range(len(messages))]
    found: list[tuple[Any, ...]] = []
    start = 0
    for index, (message, end) in enumerate(zip(messages, ends, strict=True)):
        empty = encoded([*messages[:index], {**message, "content": ""}])
        block = ids[start:end]
        header = max(0, common(ids[:end], empty) - start)
        tail = common(block[::-1], empty[start:][::-1])
        is_open = continue_final_message and index == len(messages) - 1
        footer = 0 if is_open else min(tail, len(block) - header)
        names = ["header"] * header + ["content"] * (len(block) - header - footer)
        names += ["footer"] * footer
        role = message["role"]
        found += [(i, role, name, None, index) for i, name in zip(block, names, strict=True)]
        start = end
    return found + [(each, "assistant", "header", None, None) for each in ids[start:]]


def common(one: Sequence[Any], two: Sequence[Any]) -> int:
    """The length of the longest common prefix."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(two)))


@fact("tokens that are a part of a character carry the whole, with their number")
def _fragments(wire: Wire) -> bool:
    tokens = wire.post("/tokenize", {"text": "a 🐈 b"}).json()["tokens"]
    parts = [each for each in tokens if each["fragment_count"] > 1]
    if not parts:
        return all(each["fragment_index"] == 0 for each in tokens)
    count = parts[0]["fragment_count"]
    numbers = [each["fragment_index"] for each in parts[:count]]
    return numbers == list(range(count)) and len({each["token"] for each in parts[:count]}) == 1


# -- endpoints -------------------------------------------------------------------------------------
@fact("GET / has every field, wants the secret, and states the limits")
def _status(wire: Wire) -> bool:
    refused = httpx2.get(wire.url).status_code == 401
    found = httpx2.get(wire.url, headers={"X-SECRET-KEY": SECRET}).json()
    limits = ("max_input_chars", "max_positions_per_request", "max_new_tokens")
    limits += ("max_describe_batch", "max_description_chars", "max_completion_tokens")
    expected = [65_536, 512, 4096, 512, 8192, 512]
    named = [found["limits"][name] for name in limits] == expected
    return refused and set(STATUS) <= set(found) and named and found["status"] == "ok"


@fact("/completion has the shape of /tokenize, over prompt and generated tokens")
def _completion(wire: Wire) -> bool:
    body = {"text": TEXT, "completion_tokens": 4, "temperature": 0}
    found = wire.post("/completion", body).json()
    ids = [each["token_id"] for each in found["tokens"]]
    prompt = ids_of(wire, TEXT)
    return ids[: len(prompt)] == prompt and 0 < len(ids) - found["prompt_length"] <= 4


@fact("/completion streams the prompt, each token, and the whole text")
def _completion_stream(wire: Wire) -> bool:
    body = {"text": TEXT, "completion_tokens": 4, "temperature": 0}
    first, *tokens, last = wire.frames("/completion", body)
    plain = wire.post("/completion", body).json()
    same = first["tokens"] + [each["token"] for each in tokens] == plain["tokens"]
    kinds = [first["type"], *{each["type"] for each in tokens}, last["type"]]
    return same and kinds == ["prompt", "token", "done"] and last["text"] == plain["text"]


@fact("completion_tokens begin at 1 and are clamped; temperatures are from 0 to 5")
def _completion_bounds(wire: Wire) -> bool:
    asked = {"completion_tokens": 0}, {"temperature": 5.1}, {"temperature": -1}
    refused = all(wire.detail("/completion", {"text": "a", **each})[0] == 422 for each in asked)
    long = {"text": TEXT * 8, "completion_tokens": 10**9}
    return refused and wire.post("/completion", long).status_code == 200


@fact("/explain reads all positions, and gives the requested list reversed")
def _explain_all(wire: Wire) -> bool:
    found = wire.post("/explain", {"text": "a b", **SHORT}).json()
    places = [each["position"] for each in found["results"]]
    asked = {"text": TEXT, "positions": [2, -1, 2, 0], **SHORT}
    backwards = [each["position"] for each in wire.post("/explain", asked).json()["results"]]
    forwards = wire.post("/explain", {**asked, "reverse": False}).json()["results"]
    last = len(ids_of(wire, TEXT)) - 1
    return (
        places == list(range(len(ids_of(wire, "a b"))))[::-1]
        and backwards == [0, 2, last, 2]
        and [each["position"] for each in forwards] == [2, last, 2, 0]
    )


@fact("an explanation has exactly its fourteen keys first, in their order")
def _explain_keys(wire: Wire) -> bool:
    found = wire.post("/explain", {"messages": CHATS[0], **SHORT}).json()
    rows = found["results"]
    return "layer_index" in found and all(
        tuple(row)[:14] == RESULT and row["generated"] is False for row in rows
    )


@fact("/explain streams a head, progress without description, and exactly `total` records")
def _explain_stream(wire: Wire) -> bool:
    head, *rest = wire.frames("/explain", {"text": TEXT, "positions": [0, 3, 3], **SHORT})
    finals = [each for each in rest if "description" in each]
    progress = [each for each in rest if each.get("done") is False]
    bare = all(tuple(each)[:14] == RESULT and "type" not in each for each in finals)
    kinds = {tuple(each) for each in progress} <= {("position", "text", "done")}
    complete = len(finals) + len(progress) == len(rest) and len(finals) == head["total"] == 3
    return set(head) == {"layer_index", "total", "prompt_length"} and bare and kinds and complete


@fact("max_new_tokens are from 1 to 4096")
def _new_tokens(wire: Wire) -> bool:
    asked = [wire.detail("/explain", {"text": "a", "max_new_tokens": n})[0] for n in (0, 4097)]
    return asked == [422, 422]


@fact("/describe takes 1 to 512 vectors and answers in their order")
def _describe(wire: Wire) -> bool:
    refused = [wire.detail("/describe", {"activations": wire.vectors(n)})[0] for n in (0, 513)]
    rows = wire.post("/describe", {"activations": wire.vectors(3), **SHORT}).json()["results"]
    alone = [
        wire.post("/describe", {"activations": [vector], **SHORT}).json()["results"][0]
        for vector in wire.vectors(3)
    ]
    keys = all(tuple(row)[:3] == ("description", "mse", "cosine_similarity") for row in rows)
    words = [row["description"] for row in rows] == [row["description"] for row in alone]
    return refused == [422, 422] and keys and words


@fact("/describe streams progress and records by index")
def _describe_stream(wire: Wire) -> bool:
    frames = wire.frames("/describe", {"activations": wire.vectors(2), **SHORT})
    finals = [each for each in frames if "description" in each]
    progress = {tuple(each) for each in frames if each.get("done") is False}
    return {each["index"] for each in finals} == {0, 1} and progress <= {("index", "text", "done")}


@fact("mse is 2 (1 - cosine), as both are of vectors at one length")
def _mse(wire: Wire) -> bool:
    rows = wire.post("/describe", {"activations": wire.vectors(3), **SHORT}).json()["results"]
    return all(
        math.isclose(row["mse"], 2 * (1 - row["cosine_similarity"]), abs_tol=1e-4) for row in rows
    )


@fact("/score gives what /describe gives for its own words, and bounds them")
def _score(wire: Wire) -> bool:
    (vector,) = wire.vectors(1)
    row = wire.post("/describe", {"activations": [vector], **SHORT}).json()["results"][0]
    body = {"description": row["description"], "activation": vector}
    found = wire.post("/score", body).json()
    long = wire.detail("/score", {**body, "description": "a" * 8193})[0]
    near = math.isclose(found["mse"], row["mse"], abs_tol=1e-4)
    return set(found) >= {"mse", "cosine_similarity"} and near and long == 422


@fact("/compare describes a - b and gives its length")
def _compare(wire: Wire) -> bool:
    one, two = wire.vectors(2)
    found = wire.post("/compare", {"activation_a": one, "activation_b": two, **SHORT}).json()
    less = [a - b for a, b in zip(one, two, strict=True)]
    alone = wire.post("/describe", {"activations": [less], **SHORT}).json()["results"][0]
    keys = {"description", "diff_norm", "mse", "cosine_similarity"} <= set(found)
    length = math.isclose(found["diff_norm"], math.hypot(*less), rel_tol=1e-4)
    return keys and length and found["description"] == alone["description"]


@fact("/extract gives every token its raw activation and length")
def _extract(wire: Wire) -> bool:
    found = wire.post("/extract", {"text": TEXT}).json()
    keys = ("token", "token_id", "position", "activation", "l2_norm")
    tokens = found["tokens"]
    lengths = all(
        math.isclose(each["l2_norm"], math.hypot(*each["activation"]), rel_tol=1e-3)
        for each in tokens
    )
    named = all(tuple(each)[:5] == keys for each in tokens)
    return "layer_index" in found and named and lengths and len(tokens) == len(ids_of(wire, TEXT))


@fact("what /extract gives, /describe reads as /explain reads its position")
def _round_trip(wire: Wire) -> bool:
    token = wire.post("/extract", {"text": TEXT}).json()["tokens"][4]
    body = {"activations": [token["activation"]], **SHORT}
    described = wire.post("/describe", body).json()["results"][0]
    explained = wire.post("/explain", {"text": TEXT, "positions": [4], **SHORT}).json()["results"]
    return described["description"] == explained[0]["description"]


@fact("a description has no tags and no blanks around it")
def _descriptions(wire: Wire) -> bool:
    rows = wire.post("/explain", {"text": TEXT, "temperature": 0}).json()["results"]
    words = [row["description"] for row in rows]
    return all(text == text.strip() and "explanation>" not in text for text in words)


# -- running ---------------------------------------------------------------------------------------
def main() -> int:
    """Returns 1 where a fact does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nla", default="bundled")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        secret = Path(made) / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        with serve(asked.nla, "--secret-file", str(secret)) as server:
            found = measured(wire_of(server.url, asked.nla))
    save(found, asked.output)
    print(json.dumps(found, indent=2))
    return 1 if found["differences"] else 0


def wire_of(url: str, nla: str) -> Wire:
    tokenizer = load_tokenizer(resolve(nla) / "target")
    headers = {"X-SECRET-KEY": SECRET}
    return Wire(url, tokenizer, httpx2.get(url, headers=headers).json()["d_model"])


def measured(wire: Wire) -> dict[str, Any]:
    """Which facts hold."""
    differences = {words: said for words, holds in FACTS.items() if (said := asked_of(wire, holds))}
    spans = list(span_differences(wire)) if differences else []
    return {"facts": len(FACTS), "differences": differences, "spans": spans}


def asked_of(wire: Wire, holds: Fact) -> str:
    """What is wrong with a fact; empty: nothing."""
    try:
        return "" if holds(wire) else "it does not hold"
    except (AssertionError, KeyError, IndexError, TypeError, ValueError, httpx2.HTTPError) as error:
        return f"{type(error).__name__}: {error}"[:200]


if __name__ == "__main__":
    sys.exit(main())
