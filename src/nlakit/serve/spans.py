"""Which characters a token stands for.

Pure functions over token ids and a callable, so that any tokenizer will do. Knows nothing of models
or of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Decode = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"
LONGEST_RUN = 4
"""A UTF-8 character has at most four bytes, so at most four tokens share one."""


class Fragment(NamedTuple):
    """What a token shows: text, and its place among the tokens that share it."""

    text: str
    index: int = 0
    count: int = 1


def fragments(ids: Sequence[int], decode: Decode) -> list[Fragment]:
    """One fragment a token. Tokens that hold pieces of a character all carry the joined text."""
    found: list[Fragment] = []
    while len(found) < len(ids):
        found.extend(_run(list(ids[len(found) : len(found) + LONGEST_RUN]), decode))
    return found


def _run(ids: list[int], decode: Decode) -> list[Fragment]:
    """The fragments of the first token, and of those that share its characters."""
    for count in range(1, len(ids) + 1):
        text = decode(ids[:count])
        if REPLACEMENT not in text:
            return [Fragment(text, index, count) for index in range(count)]
    return [Fragment(REPLACEMENT)]


class FragmentStream:
    """`fragments`, for tokens that come one by one: a run is held back until it resolves."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._held: list[int] = []

    def push(self, token: int) -> list[tuple[int, Fragment]]:
        """The tokens that this one resolves, each with its fragment."""
        self._held.append(token)
        return list(self._resolved(final=False))

    def flush(self) -> list[tuple[int, Fragment]]:
        """What is still held back: nothing follows."""
        return list(self._resolved(final=True))

    def _resolved(self, final: bool) -> Iterator[tuple[int, Fragment]]:
        while self._held:
            run = _run(self._held[:LONGEST_RUN], self._decode)
            unresolved = run == [Fragment(REPLACEMENT)]
            if unresolved and not final and len(self._held) < LONGEST_RUN:
                return
            for fragment in run:
                yield self._held.pop(0), fragment
