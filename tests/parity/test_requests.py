"""One request through Python, the command line and HTTP: the same ids, texts and fidelities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.chats import THINKING
from support.serving import client_for, save_nla

import nlakit
from nlakit.cli import run
from nlakit.pair.pair import Pair

TOKENS = 12
TOOL = {"type": "function", "function": {"name": "tides", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "tides", "arguments": {"port": "Ayr"}}}
CHAT = [
    {"role": "system", "content": "You know the sea."},
    {"role": "user", "content": "When is it high? <|user|>"},
]
ASKED = [
    *CHAT,
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Ask."},
    {"role": "tool", "content": "17:45"},
    {"role": "assistant", "content": "At a quarter"},
]
TEXTS = (
    "Basil rowed by the pier.",
    "<|bos|>Basil rowed by the pier.",
    "a <|user|> b ㈎ <concept>",
    "<|bos|><|user|>When is it high?<|assistant|>",
    "<|bos|>",
    " <|bos|>a",
    "😀 e\u0301 \n\n",
)
CHATS: tuple[tuple[list[dict[str, Any]], dict[str, Any]], ...] = (
    (CHAT, {}),
    (CHAT, {"add_generation_prompt": True}),
    (CHAT, {"add_generation_prompt": True, "enable_thinking": False}),
    (ASKED, {"continue_final_message": True}),
    (ASKED, {"tools": [TOOL]}),
)


@pytest.fixture(scope="module", params=["storyworld", "tools"])
def served(request, tmp_path_factory) -> Iterator[tuple[Pair, TestClient, str]]:
    """A tiny pair, in memory, behind HTTP, and on disk; with two chat templates."""
    directory = save_nla(tmp_path_factory.mktemp("pair"))
    if request.param == "tools":
        path = directory / "target" / "chat_template.jinja"
        assert path.is_file()
        path.write_text(THINKING, encoding="utf-8")
    pair = nlakit.load(directory)
    with client_for(pair, tmp_path_factory.mktemp("data")) as client:
        yield pair, client, str(directory)


def by_http(client: TestClient, body: dict[str, Any]) -> tuple[list[int], list[Any]]:
    fields = {"add_generation_prompt": False, **body}
    found = client.post("/tokenize", json=fields)
    assert found.status_code == 200, found.text
    ids = [token["token_id"] for token in found.json()["tokens"]]
    more = {"temperature": 0, "max_new_tokens": TOKENS, "reverse": False}
    rows = client.post("/v1/explain", json={**fields, "positions": [-2, -1], **more}).json()
    results = rows["results"]
    return ids, [(r["position"], r["description"], r["fidelity"]) for r in results]


def by_python(pair: Pair, request: Any, **fields: Any) -> tuple[list[int], list[Any]]:
    reading = pair.explain(request, positions=[-2, -1], max_new_tokens=TOKENS, **fields)
    rows = [(row.position, row.explanation, row.fidelity) for row in reading]
    return pair.encode(request, **fields).ids, rows


def by_command(directory: str, capsys, words: list[str]) -> list[Any]:
    options = ["--positions=-2,-1", "--max-new-tokens", str(TOKENS), "--json"]
    assert run(["explain", *words, "--nla", directory, *options]) == 0, capsys.readouterr().err
    reading = nlakit.Reading.from_json(capsys.readouterr().out)
    return [(row.position, row.explanation, row.fidelity) for row in reading]


def close(rows: list[Any]) -> list[Any]:
    return [(place, text, pytest.approx(fidelity, abs=1e-5)) for place, text, fidelity in rows]


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "<|bos|>"])
def test_a_text(served, text, capsys):
    pair, client, directory = served
    ids, rows = by_python(pair, text)
    bos = pair.target.tokenizer.bos_token
    adds = not text.startswith(bos)
    assert ids == pair.target.tokenizer(text, add_special_tokens=adds)["input_ids"]
    assert by_http(client, {"text": text}) == (ids, close(rows))
    assert by_command(directory, capsys, [text]) == close(rows)


@pytest.mark.parametrize(("messages", "fields"), CHATS)
def test_messages(served, messages, fields, capsys):
    pair, client, directory = served
    ids, rows = by_python(pair, messages, **fields)
    # What somebody wrote is never a role: only the template's own tokens are.
    assert ids.count(pair.target.tokenizer.convert_tokens_to_ids("<|user|>")) <= 1
    assert by_http(client, {"messages": messages, **fields}) == (ids, close(rows))
    raw = {"messages": messages, "tools": fields.get("tools", [])}
    flags = {
        "add_generation_prompt": "--add-generation-prompt",
        "continue_final_message": "--continue-final-message",
        "enable_thinking": "--no-enable-thinking",
    }
    words = [flags[name] for name in fields if name in flags]
    assert by_command(directory, capsys, [json.dumps(raw), *words]) == close(rows)


def test_a_conversation_that_was_rendered_has_the_positions_of_its_messages(served):
    pair, client, _ = served
    messages = [{"role": "user", "content": "When is it high?"}]
    rendered = pair.encode(messages, add_generation_prompt=True)
    text = rendered.text
    assert (
        pair.encode(text).ids
        == pair.target.tokenizer(text, add_special_tokens=not text.startswith("<|bos|>"))[
            "input_ids"
        ]
    )
    if text.startswith("<|bos|>"):
        assert pair.encode(text).ids == rendered.ids
        reading = pair.explain(text, last=1, max_new_tokens=2)
        assert "--messages" in reading.notices[0] and "<|user|>" in reading.notices[0]
        assert pair.explain("plain words", last=1, max_new_tokens=2).notices == ()
        told = client.post("/tokenize", json={"text": text}).json()["notices"]
        assert told == list(reading.notices)


@pytest.mark.parametrize(
    ("request_", "fields", "said"),
    [
        (None, {}, "found NoneType: None"),
        (5, {}, "found int: 5"),
        (b"bytes", {}, "found bytes"),
        ("", {}, "text is empty"),
        ([], {}, "empty"),
        (["a", "b"], {}, "a list of 2 texts"),
        ([{"content": "a"}], {}, "role"),
        ("a\ud800b", {}, "half of a surrogate pair"),
        ("a", {"add_generation_prompt": True}, "belongs to messages"),
        (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "cannot be"),
    ],
)
def test_what_is_no_request_is_refused(served, request_, fields, said):
    with pytest.raises(nlakit.InputError, match=said):
        served[0].explain(request_, **fields)


def test_an_unknown_argument_is_refused_by_name(served):
    with pytest.raises(TypeError, match="'sampels'"):
        served[0].explain("a", sampels=3)
