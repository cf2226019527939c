"""Byte fragments and chat spans, on tokenizers and templates made up here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nlakit.serve.spans import (
    GENERATION_PROMPT,
    SCAFFOLD,
    Fragment,
    FragmentStream,
    Turn,
    chat_spans,
    common_prefix,
    common_suffix,
    fragments,
)

SCRIPTS = [
    "🐈",
    "👩‍👩‍👧",
    "漢字",
    "e\u0301",
    "नमस्ते",
    "a b",
    "\u202eabc",
    "\ufffd",
    "\n",
    "<|tool|>",
    "ß",
]
words = st.lists(st.sampled_from(SCRIPTS) | st.text(max_size=3), max_size=6).map("".join)


def decode(ids: list[int]) -> str:
    """A token is a byte."""
    return bytes(ids).decode("utf-8", "replace")


def decode_pieces(pieces: list[bytes]):
    """A token is a stretch of bytes."""
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


# -- fragments -------------------------------------------------------------------------------------
def test_tokens_that_share_a_character_carry_it_all():
    cat = "🐈".encode()
    found = fragments([*b"a", *cat, *b"b"], decode)
    assert found == [
        Fragment("a"),
        *[Fragment("🐈", index, 4) for index in range(4)],
        Fragment("b"),
    ]


def test_a_run_ends_with_the_token_that_makes_it_clean():
    pieces = [b"x\xe6", b"\xbc\xa2y", b"z"]
    assert fragments([0, 1, 2], decode_pieces(pieces)) == [
        Fragment("x漢y", 0, 2),
        Fragment("x漢y", 1, 2),
        Fragment("z"),
    ]


def test_what_never_resolves_stands_alone():
    assert fragments([0xF0, *b"abcd"], decode)[0] == Fragment("\ufffd", 0, 1)
    assert fragments([0xF0, *b"abcd"], decode)[1:] == [Fragment(c) for c in "abcd"]
    assert fragments(list("🐈".encode()[:3]), decode) == [Fragment("\ufffd")] * 3


def test_more_than_four_tokens_never_share():
    pieces = [b"\xe6", b"\xbc\xa2\xe6", b"\xbc\xa2\xe6", b"\xbc\xa2\xe6", b"\xbc\xa2"]
    found = fragments(range(5), decode_pieces(pieces))
    assert found[0] == Fragment("\ufffd") and max(each.count for each in found) <= 4


@given(words)
def test_single_bytes_give_the_text_back(text):
    # A replacement character that was written looks like a piece of one, byte for byte.
    clean = text.replace("\ufffd", "?")
    found = fragments(list(clean.encode()), decode)
    assert "".join(each.text for each in found if each.index == 0) == clean


@given(words, st.lists(st.integers(1, 4), min_size=1))
def test_a_stream_tells_the_same_fragments(text, sizes):
    raw, pieces = text.encode(), []
    while raw:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(raw[:size])
        raw = raw[size:]
    stream, told = FragmentStream(decode_pieces(pieces)), []
    for token in range(len(pieces)):
        told += stream.push(token)
    told += stream.flush()
    assert [token for token, _ in told] == list(range(len(pieces)))
    assert [fragment for _, fragment in told] == fragments(
        range(len(pieces)), decode_pieces(pieces)
    )


def test_a_stream_holds_back_no_longer_than_it_must():
    stream = FragmentStream(decode)
    cat = "🐈".encode()
    assert [len(stream.push(byte)) for byte in cat] == [0, 0, 0, 4]
    assert stream.push(ord("a")) == [(97, Fragment("a"))]
    assert stream.push(cat[0]) == [] and stream.flush() == [(cat[0], Fragment("\ufffd"))]


# -- spans -----------------------------------------------------------------------------------------
messages_of = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), words),
    min_size=1,
    max_size=5,
)


def spell(messages, prompt="", open_end=False) -> list[int]:
    """`^role:content$`, a token a character; `open_end` leaves out the last `$`."""
    text = "BOS" + "".join(f"^{role}:{content}$" for role, content in messages) + prompt
    return [ord(char) for char in (text[:-1] if open_end else text)]


def spans_of(messages, prompt="", open_end=False, refuses=()):
    """Spans under the template above, which knows no conversation of a length in `refuses`."""

    def render(count: int, emptied: bool):
        if count in refuses:
            return None
        head = messages[:count]
        return spell([*head[:-1], (head[-1][0], "")] if emptied else head)

    turns = [Turn(role, None) for role, _ in messages]
    return chat_spans(spell(messages, prompt, open_end), turns, render, open_end)


def shown(ids, spans, index, section) -> str:
    return "".join(
        chr(i)
        for i, span in zip(ids, spans, strict=True)
        if (span.message_index, span.section) == (index, section)
    )


@given(messages_of, st.booleans())
def test_every_part_is_found(messages, open_end):
    # A content that begins as the template goes on after it cannot be told from it.
    messages = [(role, "·" + content.replace("$", "")) for role, content in messages]
    ids, spans = spell(messages, open_end=open_end), spans_of(messages, open_end=open_end)
    for index, (role, content) in enumerate(messages):
        assert shown(ids, spans, index, "content") == content
        assert shown(ids, spans, index, "header") == ("BOS" if index == 0 else "") + f"^{role}:"
        held = open_end and index == len(messages) - 1
        assert shown(ids, spans, index, "footer") == ("" if held else "$")
        assert {span.role for span in spans if span.message_index == index} == {role}


@given(messages_of)
def test_indices_never_go_back_and_cover_all(messages):
    spans = spans_of(messages, prompt="^assistant:")
    found = [span.message_index for span in spans if span.message_index is not None]
    assert found == sorted(found) and len(spans) == len(spell(messages, prompt="^assistant:"))


def test_what_follows_the_last_message_is_the_generation_prompt():
    spans = spans_of([("user", "hi")], prompt="^assistant:")
    assert spans[-11:] == [GENERATION_PROMPT] * 11
    assert (spans[-12].section, spans[-12].message_index) == ("footer", 0)


def test_content_that_ends_as_the_header_does_is_content():
    spans = spans_of([("system", "a:")])
    assert shown(spell([("system", "a:")]), spans, 0, "content") == "a:"
    assert shown(spell([("system", "a:")]), spans, 0, "footer") == "$"


def test_an_empty_message_is_all_header():
    spans = spans_of([("user", ""), ("tool", "x")])
    assert {span.section for span in spans if span.message_index == 0} == {"header"}
    assert shown(spell([("user", ""), ("tool", "x")]), spans, 1, "content") == "x"


def test_a_system_line_folded_into_the_next_message_belongs_to_its_header():
    whole = [ord(c) for c in "B[sys\nhi]"]
    renders = {(1, False): "B", (1, True): "B", (2, False): "B[sys\nhi]", (2, True): "B[sys\n]"}
    turns = [Turn("system", None), Turn("user", None)]
    spans = chat_spans(whole, turns, lambda n, e: [ord(c) for c in renders[n, e]])
    parts = [shown(whole, spans, 1, section) for section in ("header", "content", "footer")]
    assert parts == ["[sys\n", "hi", "]"]


def test_what_nobody_can_tell_apart_is_scaffold():
    messages = [("system", "be kind"), ("user", "hi")]
    ids, spans = spell(messages), spans_of(messages, refuses={1})
    assert spans[: ids.index(ord("h"))] == [SCAFFOLD] * ids.index(ord("h"))
    assert shown(ids, spans, 1, "content") == "hi" and shown(ids, spans, 1, "footer") == "$"
    assert set(spans_of(messages, refuses={1, 2})) == {SCAFFOLD}


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_parts(first, second):
    size = common_prefix(first, second)
    assert first[:size] == second[:size]
    assert size in (len(first), len(second)) or first[size] != second[size]
    assert common_suffix(first, second) == common_prefix(first[::-1], second[::-1])
