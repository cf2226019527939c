"""What the storyworld knows about a text: facts with their extent, and the state at any point of
it.

Places are character offsets, so the state does not depend on anybody's tokenizer. Knows nothing of
how documents are made (`grammar`) or described (`teacher`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

KINDS = (
    "genre", "language", "topic", "mood", "register", "speaker", "goal", "person", "object", "day",
    "wind", "drill", "rhyme", "sum", "answer", "count", "switch", "last", "next",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """`kind` is `value` for every prefix `text[:c]` with `start <= c < end` (no end: to the last).

    `planned` marks what is fixed by what was said but has not been said itself.
    """

    kind: str
    value: str
    start: int
    end: int | None = None
    planned: bool = False

    def holds_at(self, char_end: int) -> bool:
        return self.start <= char_end and (self.end is None or char_end < self.end)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text written by one choice: `slot` says what kind of word was due.

    `forced`: what was written before left no other slot possible.
    """

    start: int
    end: int
    slot: str
    forced: bool
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class State:
    """What is true after `text[:char_end]`: facts said, facts planned, and what must follow."""

    facts: dict[str, str]
    planned: frozenset[str]
    last_words: tuple[str, ...]
    next_slot: str | None
    next_words: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    id: str
    genre: str
    text: str
    facts: tuple[Fact, ...]
    segments: tuple[Segment, ...]
    messages: tuple[Message, ...] = ()
    _starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [segment.start for segment in self.segments])

    def state(self, char_end: int) -> State:
        """The state after the first `char_end` characters of the text."""
        live = [fact for fact in self.facts if fact.holds_at(char_end)]
        slot, words = self._next(char_end)
        return State(
            facts={fact.kind: fact.value for fact in live},
            planned=frozenset(fact.kind for fact in live if fact.planned),
            last_words=last_words(self.text[:char_end]),
            next_slot=slot,
            next_words=words,
        )

    def _next(self, char_end: int) -> tuple[str | None, tuple[str, ...]]:
        index = bisect_right(self._starts, char_end) - 1
        if index >= 0 and self.segments[index].start < char_end < self.segments[index].end:
            segment = self.segments[index]  # inside a phrase: its own rest is due
            rest = self.text[char_end : segment.end]
            if not rest[0].isspace():
                return "rest", (rest.split()[0],)
            return "link", (rest.split()[0],)
        index = index if index >= 0 and self.segments[index].start >= char_end else index + 1
        if index >= len(self.segments) or not self.segments[index].forced:
            return None, ()
        segment = self.segments[index]
        return segment.slot, segment.candidates or (self.text[segment.start : segment.end].strip(),)


def last_words(prefix: str, num_words: int = 3) -> tuple[str, ...]:
    """The last pieces between spaces (a word with its punctuation, or the part of one so far).

    A role token reads as `role:`.
    """
    tail = re.sub(r"<\|(\w+)\|>", r" \1: ", prefix[-120:])
    return tuple(tail.split()[-num_words:])
