"""Which characters a token stands for, and which part of a conversation it belongs to.

Pure functions over token ids and two callables, so that any tokenizer and template will do. Knows
nothing of models or of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Section = Literal["header", "content", "footer", "scaffold"]
Decode = Callable[[list[int]], str]
Render = Callable[[int, bool], list[int] | None]
"""`render(count, emptied)`: the ids of the first `count` messages without a generation prompt, the
last of them with empty content where `emptied`; None where the template refuses that."""

REPLACEMENT = "\ufffd"
LONGEST_RUN = 4
"""A UTF-8 character has at most four bytes, so at most four tokens share one."""


class Fragment(NamedTuple):
    """What a token shows: text, and its place among the tokens that share it."""

    text: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Span:
    """Where in a conversation a token stands; all None in plain text."""

    role: str | None = None
    section: Section | None = None
    channel: str | None = None
    message_index: int | None = None


NO_SPAN = Span()
SCAFFOLD = Span(section="scaffold")
GENERATION_PROMPT = Span(role="assistant", section="header")


# -- byte fragments --------------------------------------------------------------------------------
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


# -- chat spans ------------------------------------------------------------------------------------
class Turn(NamedTuple):
    """What a span says of a message."""

    role: str
    channel: str | None


def chat_spans(
    ids: Sequence[int], turns: Sequence[Turn], render: Render, held_open: bool = False
) -> list[Span]:
    """One span a token of a rendered conversation.

    A message ends where the tokens part from those of the conversation up to it. In its block the
    header is what an empty message has before its content, the footer what it has after it.

    Args:
        held_open: the last message is to be continued, so it has no footer.
    """
    spans: list[Span] = []
    for index, turn in enumerate(turns):
        rendered = render(index + 1, False)
        if rendered is None:
            continue  # the template knows no such conversation: nobody can tell where it ends
        end = max(len(spans), common_prefix(ids, rendered))
        is_open = held_open and index == len(turns) - 1
        block = _block(ids[:end], len(spans), render(index + 1, True), is_open)
        start_known = index == 0 or render(index, False) is not None
        spans += [_span(section, turn, index, start_known) for section in block]
    tail = GENERATION_PROMPT if render(len(turns), False) is not None else SCAFFOLD
    return spans + [tail] * (len(ids) - len(spans))


def _block(
    ids: Sequence[int], start: int, emptied: list[int] | None, is_open: bool
) -> list[Section]:
    """The sections of `ids[start:]`, one message."""
    size = len(ids) - start
    if emptied is None:
        return ["scaffold"] * size
    header = min(size, max(0, common_prefix(ids, emptied) - start))
    after_header = max(0, len(emptied) - start - header)
    footer = 0 if is_open else min(size - header, after_header, common_suffix(ids, emptied))
    sections: list[Section] = ["header"] * header
    content: list[Section] = ["content"] * (size - header - footer)
    footers: list[Section] = ["footer"] * footer
    return sections + content + footers


def _span(section: Section, turn: Turn, index: int, start_known: bool) -> Span:
    """A token's span; before the content of a message with unknown start it may be another's."""
    if section == "scaffold" or (section == "header" and not start_known):
        return SCAFFOLD
    return Span(turn.role, section, turn.channel, index)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items two sequences share from the start."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def common_suffix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items two sequences share at the end."""
    return common_prefix(first[::-1], second[::-1])
