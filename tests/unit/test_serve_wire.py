"""Every row of the wire interface, with values worked out by hand.

The activation at token p is (p + 1, 0, …); every explanation is rebuilt as (3, 4, 0, …). So
cosine 0.6 and, both at norm √d, mse 2 (1 - 0.6) = 0.8.
"""

from __future__ import annotations

import json
import math

import pytest
from support.serving import D_MODEL, ScriptedEngine, client_for, scripted_nla, tiny_target

TOKEN_KEYS = ["token", "token_id", "position"]
SPAN_KEYS = ["role", "section", "channel", "message_index"]
INFO_KEYS = [*TOKEN_KEYS, "fragment_index", "fragment_count", *SPAN_KEYS]
SCORE_KEYS = ["l2_norm", "description", "mse", "cosine_similarity", "generated"]
KEYS = [*TOKEN_KEYS, *SCORE_KEYS, "fragment_index", "fragment_count", *SPAN_KEYS]
STATUS_KEYS = [
    "status",
    "verbalizer_model",
    "d_model",
    "verbalizer_quantization",
    "verbalizer_kv_cache_dtype",
    "verbalizer_cuda_graph_max_bs",
    "verbalizer_torch_compile",
    "verbalizer_device",
    "reconstructor_available",
    "reconstructor_fp8",
    "reconstructor_int4",
    "reconstructor_device",
    "source_model",
    "extraction_layer",
    "source_truncated",
    "source_fp8",
    "source_device",
    "completion_available",
    "num_cuda_devices",
    "max_concurrent",
    "max_concurrent_explains",
    "source_max_concurrent",
    "reconstructor_max_concurrent",
    "max_describe_requests",
    "limits",
]
TEXT = "the cat sat"
PATHS = ("/tokenize", "/completion", "/explain", "/describe", "/score", "/compare", "/extract")


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine()


@pytest.fixture(scope="module")
def client(engine, tmp_path_factory):
    with client_for(scripted_nla(engine), tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    data = tmp_path_factory.mktemp("guarded")
    with client_for(scripted_nla(ScriptedEngine()), data, secret="open-sesame") as found:
        yield found


def frames_of(response) -> list:
    """Decoded frames; comments left out. The stream must end with [DONE] and a blank line."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, rest = response.text.split("\n\n")
    assert rest == "" and parts[-1] == "data: [DONE]" and all("\n" not in part for part in parts)
    data = [part.removeprefix("data: ") for part in parts[:-1] if not part.startswith(":")]
    return [json.loads(each) for each in data]


def num_tokens(client, **body) -> int:
    return client.post("/tokenize", json=body).json()["prompt_length"]


def near(value):
    return pytest.approx(value, abs=1e-6)


# -- GET / -----------------------------------------------------------------------------------------
def test_status_has_every_field(client):
    found = client.get("/").json()
    assert found["status"] == "ok" and found["d_model"] == D_MODEL
    assert found["extraction_layer"] == 1 and found["completion_available"] is True
    assert found["verbalizer_quantization"] is None and found["num_cuda_devices"] >= 0
    assert list(found) == STATUS_KEYS
    assert found["limits"] == {
        "max_input_chars": 65536,
        "max_positions_per_request": 512,
        "max_new_tokens": 4096,
        "max_describe_batch": 512,
        "max_description_chars": 8192,
        "max_completion_tokens": 512,
    }


# -- auth ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PATHS)
def test_the_secret_is_asked_before_the_fields(guarded, path):
    missing = guarded.post(path, json={"temperature": "hot"})
    assert (missing.status_code, missing.json()) == (
        401,
        {"detail": "X-SECRET-KEY header required"},
    )
    wrong = guarded.post(path, json={}, headers={"X-SECRET-KEY": "open-sesam"})
    assert (wrong.status_code, wrong.json()) == (403, {"detail": "Invalid secret key"})
    # Malformed JSON is seen before the secret is.
    garbage = guarded.post(path, content=b"{", headers={"Content-Type": "application/json"})
    assert garbage.status_code == 422 and garbage.json()["detail"][0]["type"] == "json_invalid"
    right = guarded.post(path, json={"temperature": "x"}, headers={"X-SECRET-KEY": "open-sesame"})
    assert right.status_code in (400, 422)


def test_status_and_metrics_want_the_secret_and_health_does_not(guarded):
    assert [guarded.get(path).status_code for path in ("/", "/metrics", "/v1/health")] == [
        401,
        401,
        200,
    ]
    assert guarded.get("/", headers={"X-SECRET-KEY": "open-sesame"}).status_code == 200


# -- shared request fields -------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/tokenize", "/completion", "/explain", "/extract"])
def test_neither_text_nor_messages(client, path):
    for body in ({}, {"text": ""}, {"text": None, "messages": []}):
        found = client.post(path, json=body)
        assert found.status_code == 400
        assert found.json() == {"detail": "Provide either `text` or `messages`."}


def test_limits_of_the_prompt(client):
    assert client.post("/tokenize", json={"text": "a" * 65537}).status_code == 422
    assert client.post("/tokenize", json={"text": "a b " * 400}).status_code == 400
    many = [{"role": "user", "content": "a" * 40_000}] * 2
    for messages in (many, [{"role": "user", "content": "a" * 65_537}]):
        found = client.post("/tokenize", json={"messages": messages})
        assert found.status_code == 400
        assert found.json() == {"detail": "Rendered chat exceeds 65536 chars."}
    half = {"content": b'{"text": "\\ud800"}', "headers": {"Content-Type": "application/json"}}
    assert client.post("/tokenize", **half).status_code == 422


def test_unknown_fields_are_ignored_and_messages_win(client):
    turn = {"role": "user", "content": "hi", "extra": 1}
    found = client.post("/tokenize", json={"text": "no", "messages": [turn], "what": 2}).json()
    assert found["text"] == "<|bos|><|user|>hi<|assistant|>"


def test_a_text_has_bos_once(client):
    plain = client.post("/tokenize", json={"text": TEXT}).json()
    given = client.post("/tokenize", json={"text": "<|bos|>" + TEXT}).json()
    ids = [[token["token_id"] for token in each["tokens"]] for each in (plain, given)]
    assert ids[0] == ids[1] and ids[0].count(1) == 1
    assert given["text"] == "<|bos|>" + TEXT


def test_special_tokens_in_a_text_are_those_of_the_tokenizer(client):
    tokenizer = tiny_target().tokenizer
    for text in ("a<|tool|>㈎<concept>", "<|bos|>a", "<|bos|>", "a<|eos|>", " <|bos|>a"):
        found = client.post("/tokenize", json={"text": text}).json()
        expected = tokenizer(text, add_special_tokens=not text.startswith("<|bos|>"))["input_ids"]
        assert [token["token_id"] for token in found["tokens"]] == expected
        assert found["text"] == text


def test_a_conversation_that_was_rendered_is_read_as_text_at_the_same_positions(client):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]
    chat = client.post("/tokenize", json={"messages": turns}).json()
    text = client.post("/tokenize", json={"text": chat["text"]}).json()
    ids = [[token["token_id"] for token in each["tokens"]] for each in (chat, text)]
    assert ids[0] == ids[1] and text["text"] == chat["text"]


def test_special_tokens_in_messages_are_plain_text(client):
    target = tiny_target()
    special = set(target.tokenizer.all_special_ids)
    chat = {"messages": [{"role": "user", "content": "a<|tool|>㈎<|eos|>"}]}
    turn = client.post("/tokenize", json=chat).json()
    assert [t["token_id"] in special for t in turn["tokens"]].count(True) == 3  # BOS, two roles
    assert turn["text"] == "<|bos|><|user|>a<|tool|>㈎<|eos|><|assistant|>"
    parts = {t["section"] for t in turn["tokens"] if t["token"] == "tool"}
    assert parts <= {"content"}


# -- /tokenize -------------------------------------------------------------------------------------
def test_tokenize_text(client):
    found = client.post("/tokenize", json={"text": "a 🐈"}).json()
    assert list(found["tokens"][0]) == INFO_KEYS
    cat = [token for token in found["tokens"] if "🐈" in token["token"]]
    assert [token["fragment_index"] for token in cat] == list(range(len(cat)))
    assert {token["fragment_count"] for token in cat} == {len(cat)} and len(cat) > 1
    assert [token["position"] for token in found["tokens"]] == list(range(found["prompt_length"]))
    assert all(token[key] is None for token in cat for key in ("role", "section", "channel"))


def test_tokenize_messages_gives_spans(client):
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    found = client.post("/tokenize", json={"messages": turns}).json()["tokens"]
    said = [(t["role"], t["section"], t["message_index"]) for t in found]
    assert said[:2] == [("system", "header", 0)] * 2 and said[-1] == ("assistant", "header", None)
    words = "".join(t["token"] for t in found if (t["section"], t["role"]) == ("content", "user"))
    assert words == "hi"


@pytest.mark.parametrize("role", ["user", "a b", "développeur", "x" * 100])
@pytest.mark.parametrize("channel", [None, "", "analysis", "two words"])
def test_roles_and_channels_are_any_words(client, role, channel):
    turns = [{"role": role, "content": "hi", "channel": channel}]
    found = client.post("/tokenize", json={"messages": turns}).json()
    assert found["text"] == f"<|bos|><|{role}|>hi<|assistant|>"
    said = {(t["role"], t["channel"]) for t in found["tokens"] if t["message_index"] == 0}
    assert said == {(role, channel)}


def test_a_held_open_message_ends_the_prompt(client):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]
    body = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
    found = client.post("/tokenize", json=body).json()
    assert found["text"] == "<|bos|><|user|>hi<|assistant|>well"
    assert {t["section"] for t in found["tokens"] if t["message_index"] == 1} == {
        "header",
        "content",
    }


@pytest.mark.parametrize("path", ["/tokenize", "/completion", "/explain", "/extract"])
def test_a_message_held_open_has_no_generation_prompt_after_it(client, path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]
    body = {"messages": turns, "continue_final_message": True}
    found = client.post(path, json=body)
    assert found.status_code == 400 and "add_generation_prompt" in found.json()["detail"]


# -- /explain --------------------------------------------------------------------------------------
def test_explain_records(client, engine):
    engine.extracted.clear()
    found = client.post("/explain", json={"text": TEXT, "positions": [1, -1, 1]}).json()
    last = num_tokens(client, text=TEXT) - 1
    assert found["layer_index"] == 1 and engine.extracted == [[1, last, 1]]
    assert [list(each) for each in found["results"]] == [KEYS] * 3
    # Reversed, not sorted; doubles kept; and row numbers are those of the list that was asked.
    assert [each["position"] for each in found["results"]] == [1, last, 1]
    assert [each["description"] for each in found["results"]] == [
        "thought 2",
        "thought 1",
        "thought 0",
    ]
    first = found["results"][0]
    assert (first["l2_norm"], first["mse"], first["cosine_similarity"]) == (2, near(0.8), near(0.6))
    assert first["generated"] is False and first["role"] is None


def test_explain_reads_all_by_default_from_the_end(client):
    total = num_tokens(client, text=TEXT)
    for body in ({}, {"positions": None}, {"positions": []}):
        found = client.post("/explain", json={"text": TEXT, **body}).json()["results"]
        assert [each["position"] for each in found] == list(range(total))[::-1]
    forward = client.post("/explain", json={"text": TEXT, "reverse": False}).json()["results"]
    assert [each["position"] for each in forward] == list(range(total))


@pytest.mark.parametrize("place", [99, -99, 10**30, -(2**31) - 1])
def test_explain_position_out_of_range(client, place):
    last = num_tokens(client, text=TEXT) - 1
    found = client.post("/explain", json={"text": TEXT, "positions": [0, place]})
    assert found.status_code == 400
    assert found.json() == {"detail": f"Position {place} out of range (0..{last})"}


@pytest.mark.parametrize(
    "bad",
    [
        {"positions": [0] * 513},
        {"positions": ["x"]},
        {"max_new_tokens": 0},
        {"max_new_tokens": 4097},
        {"temperature": -0.1},
        {"temperature": 5.1},
        {"text": 5},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "a" * 1025, "content": ""}]},
        {"messages": [{"role": None, "content": ""}]},
        {"messages": [{"role": "user", "content": "a", "channel": 5}]},
    ],
)
def test_explain_refuses_fields(client, bad):
    found = client.post("/explain", json={"text": TEXT, **bad})
    assert found.status_code == 422
    assert {"type", "loc", "msg"} <= found.json()["detail"][0].keys()


def test_explain_max_new_tokens_cuts(tmp_path):
    engine = ScriptedEngine(words=lambda row: f"{row.sampling.max_new_tokens}")
    with client_for(scripted_nla(engine), tmp_path) as client:
        for asked in (1, 200, 4096):
            body = {"text": TEXT, "positions": [0], "max_new_tokens": asked}
            found = client.post("/explain", json=body).json()["results"][0]
            assert found["description"] == str(asked)


def test_explain_stream(client):
    body = {"text": TEXT, "positions": [2, 0], "stream": True}
    head, *rest = frames_of(client.post("/explain", json=body))
    total = num_tokens(client, text=TEXT)
    assert head == {"layer_index": 1, "total": 2, "prompt_length": total}
    progress = [each for each in rest if each.get("done") is False]
    assert {tuple(each) for each in progress} == {("position", "text", "done")}
    assert progress[0]["text"].startswith("<explanation>")
    finals = [each for each in rest if "done" not in each]
    assert [list(each) for each in finals] == [KEYS] * 2
    assert {each["position"] for each in finals} == {0, 2}


def test_the_last_progress_frame_holds_all_words(client):
    for path, body in (
        ("/explain", {"text": TEXT, "positions": [2, 0]}),
        ("/describe", {"activations": [VECTOR, VECTOR]}),
    ):
        found = frames_of(client.post(path, json={**body, "stream": True}))
        finals = [number for number, each in enumerate(found) if "description" in each]
        assert len(finals) == 2
        for number in finals:
            final = found[number]
            before = [e for e in found[:number] if "text" in e and where(e) == where(final)]
            assert before[-1]["text"] == f"<explanation>{final['description']}</explanation>"


def where(frame: dict) -> int:
    """Which place a frame speaks of."""
    return frame.get("position", frame.get("index"))


def test_stream_and_plain_say_the_same(client):
    body = {"text": TEXT, "reverse": False}
    plain = client.post("/explain", json=body).json()["results"]
    streamed = frames_of(client.post("/explain", json={**body, "stream": True}))[1:]
    finals = sorted((f for f in streamed if "done" not in f), key=lambda f: f["position"])
    assert finals == plain


# -- /describe, /score, /compare, /extract ---------------------------------------------------------
VECTOR = [3.0, 4.0, *[0.0] * (D_MODEL - 2)]


def test_describe(client):
    found = client.post("/describe", json={"activations": [VECTOR, [0.0] * D_MODEL]}).json()
    assert found == {
        "results": [
            {"description": "thought 0", "mse": near(0), "cosine_similarity": near(1)},
            # Nothing points nowhere: as far from everything as a vector at a right angle.
            {"description": "thought 1", "mse": near(1), "cosine_similarity": near(0)},
        ]
    }


def test_describe_stream_has_an_index(client):
    body = {"activations": [VECTOR, VECTOR], "stream": True}
    found = frames_of(client.post("/describe", json=body))
    progress = [each for each in found if each.get("done") is False]
    finals = [each for each in found if "description" in each]
    assert {tuple(each) for each in progress} == {("index", "text", "done")}
    assert sorted(each["index"] for each in finals) == [0, 1] and len(finals) == 2
    assert list(finals[0]) == ["index", "description", "mse", "cosine_similarity"]


@pytest.mark.parametrize("path", ["/describe", "/v1/describe"])
def test_a_vector_of_no_numbers_has_the_wrong_length(client, path):
    found = client.post(path, json={"activations": [VECTOR, []]})
    assert found.status_code == 400
    assert found.json() == {"detail": f"Vector length 0 != d_model {D_MODEL}"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/describe", {"activations": [[1.0, 2.0, 3.0]]}),
        ("/score", {"description": "a", "activation": [1.0, 2.0, 3.0]}),
        ("/compare", {"activation_a": VECTOR, "activation_b": [1.0, 2.0, 3.0]}),
    ],
)
def test_a_vector_of_another_length(client, path, body):
    found = client.post(path, json=body)
    assert found.status_code == 400
    assert found.json() == {"detail": f"Vector length 3 != d_model {D_MODEL}"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e39"])
def test_numbers_that_are_not_finite(client, number):
    raw = f'{{"description": "a", "activation": [{number}]}}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/score", content=raw, headers=headers).status_code == 422


@pytest.mark.parametrize("activations", [[], [VECTOR] * 513, "x", None, [[1.0], "x"]])
def test_describe_refuses_fields(client, activations):
    assert client.post("/describe", json={"activations": activations}).status_code == 422


def test_score(client):
    across = [0.0, 0.0, 5.0, *[0.0] * (D_MODEL - 3)]
    body = {"description": "anything", "activation": across}
    assert client.post("/score", json=body).json() == {"mse": near(2), "cosine_similarity": near(0)}
    assert client.post("/score", json={**body, "description": "a" * 8193}).status_code == 422
    huge = {**body, "activation": [3e38, 3e38, *[0.0] * (D_MODEL - 2)]}
    found = client.post("/score", json=huge).json()
    assert found["cosine_similarity"] == near(0.7 * math.sqrt(2))


def test_compare(client):
    body = {
        "activation_a": [9.0, 4.0, *[0.0] * (D_MODEL - 2)],
        "activation_b": [6.0] + VECTOR[2:3] * 7,
    }
    assert client.post("/compare", json=body).json() == {
        "description": "thought 0",
        "diff_norm": near(5),
        "mse": near(0),
        "cosine_similarity": near(1),
    }


def test_extract(client):
    found = client.post("/extract", json={"text": "a"}).json()
    assert found["layer_index"] == 1
    second = found["tokens"][1]
    assert list(second) == ["token", "token_id", "position", "activation", "l2_norm"]
    assert second["activation"] == [2.0, *[0.0] * (D_MODEL - 1)] and second["l2_norm"] == 2


# -- /completion -----------------------------------------------------------------------------------
def test_completion_has_the_shape_of_tokenize(client):
    body = {"text": TEXT, "completion_tokens": 5, "temperature": 0}
    found, again = (client.post("/completion", json=body).json() for _ in range(2))
    prompt = client.post("/tokenize", json={"text": TEXT}).json()
    assert found == again and list(found) == ["tokens", "prompt_length", "text"]
    assert found["prompt_length"] == prompt["prompt_length"]
    assert found["tokens"][: found["prompt_length"]] == prompt["tokens"]
    places = [token["position"] for token in found["tokens"]]
    assert places == list(range(len(places))) and len(places) <= found["prompt_length"] + 5
    assert found["text"].startswith("<|bos|>" + TEXT)
    ids = [token["token_id"] for token in found["tokens"]]
    assert found["text"] == tiny_target().tokenizer.decode(ids, skip_special_tokens=False)


def test_completion_is_what_the_target_says(client):
    import torch

    target, body = tiny_target(), {"text": TEXT, "completion_tokens": 6, "temperature": 0}
    ids = target.encode(TEXT).ids
    expected = target.model.generate(
        torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0
    )[0].tolist()
    found = client.post("/completion", json=body).json()["tokens"]
    assert [token["token_id"] for token in found] == expected


def test_completion_of_messages_is_the_assistant(client):
    turns = [{"role": "user", "content": "hi"}]
    body = {"messages": turns, "completion_tokens": 4, "temperature": 1}
    found = client.post("/completion", json=body).json()
    for token in found["tokens"][found["prompt_length"] :]:
        assert (token["role"], token["message_index"]) == ("assistant", None)
        assert token["section"] == ("footer" if token["token_id"] == 2 else "content")


def test_completion_stream(client):
    body = {"text": TEXT, "completion_tokens": 5, "temperature": 0, "stream": True}
    head, *tokens, done = frames_of(client.post("/completion", json=body))
    plain = client.post("/completion", json={**body, "stream": False}).json()
    assert (head["type"], head["prompt_length"]) == ("prompt", plain["prompt_length"])
    assert {each["type"] for each in tokens} == {"token"}
    assert head["tokens"] + [each["token"] for each in tokens] == plain["tokens"]
    assert done == {"type": "done", "text": plain["text"]}


@pytest.mark.parametrize(
    ("number", "status"),
    [(0, 422), (1, 200), (10**6, 200), (2**31, 200), (10**30, 200), ("many", 422), (-5, 422)],
)
def test_completion_tokens_are_clamped(client, number, status):
    # The longest of all fills the context, minus the prompt.
    body = {"text": "a" if number in (0, 1) else "the cat " * 100, "completion_tokens": number}
    assert client.post("/completion", json=body).status_code == status


def test_completion_on_a_truncated_target(client):
    service = client.app.state.service
    service.can_complete = False
    try:
        found = client.post("/completion", json={"text": TEXT})
    finally:
        service.can_complete = True
    assert found.status_code == 503 and int(found.headers["Retry-After"]) > 0
