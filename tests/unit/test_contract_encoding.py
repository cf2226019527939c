"""One tokenizer, several threads, each with its own options."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.serving import tiny_target, tiny_tokenizer

import nlakit
from nlakit.contract import encode_ids, encode_with_offsets
from nlakit.serve.schemas import PromptRequest
from nlakit.serve.tokens import prepare

ROUNDS = 150
TEXT = "the cat <|user|> sat " * 3


@pytest.fixture(autouse=True)
def _many_switches() -> Iterator[None]:
    """Threads take turns as often as on a machine with many of them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_each_call_encodes_with_its_own_options():
    tokenizer = tiny_tokenizer()

    def ids(plain: bool) -> set[tuple[int, ...]]:
        found = (encode_with_offsets(tokenizer, TEXT, plain=plain).ids for _ in range(ROUNDS))
        return {tuple(each) for each in found}

    user = tokenizer.convert_tokens_to_ids("<|user|>")
    with ThreadPoolExecutor(4) as pool:
        special, plain, *again = pool.map(ids, [False, True, False, True])
    assert [special, plain] == again and len(special) == len(plain) == 1
    assert next(iter(special)).count(user) == 3 and user not in next(iter(plain))


def test_added_tokens_cover_no_characters():
    tokenizer = tiny_tokenizer()
    ids, offsets = encode_with_offsets(tokenizer, "a b")
    assert offsets[0] == (0, 1) and ids == encode_ids(tokenizer, "a b")
    assert encode_ids(tokenizer, "") == []


def test_clients_with_text_and_with_messages_do_not_disturb_each_other():
    target = tiny_target()
    turns = [{"role": "user", "content": "a <|user|> b"}, {"role": "tool", "content": "the cat"}]
    requests = [PromptRequest(text="say <|user|> twice"), PromptRequest(messages=turns)]  # pyright: ignore[reportArgumentType]
    expected = [prepare(target, request) for request in requests]

    def wrong(number: int) -> int:
        request, right = requests[number % 2], expected[number % 2]
        return sum(prepare(target, request) != right for _ in range(ROUNDS))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [0] * 4


@pytest.mark.parametrize("room", ["contract", "models", "engines", "pair", "claims", "serve"])
def test_rooms_that_a_server_uses_encode_nowhere_else(room):
    files = list((Path(nlakit.__file__).parent / room).rglob("*.py"))
    direct = re.compile(r"(?<!_)tokenizer(\.encode)?\((?!\))|tokenize=True")
    found = [
        (path.name, line.strip())
        for path in files
        if path.name != "encoding.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if direct.search(line)
    ]
    assert files and found == []
