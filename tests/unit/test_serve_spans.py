"""Byte fragments, on tokenizers made up here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nlakit.serve.spans import Fragment, FragmentStream, fragments

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
