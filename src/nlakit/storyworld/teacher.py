"""The storyworld's teacher: writes the explanation of a prefix from the state it is in.

Two or three snippets (setting and form; content and plan; the final token and what must follow) in
varied wording. Like any teacher it sees the text, not the vector: it may name facts that the
activation does not hold. That is the field's problem and not an oversight.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .claims import next_value
from .document import Document, State
from .wording import NEXT, NEXT_OPEN, PHRASES

# How often a fact that holds is mentioned. Day and wind are controls: nothing can be read of them
# later.
MENTION = {"person": 0.7, "goal": 0.9, "object": 0.9, "day": 0.4, "wind": 0.4}
UNASKED_LANGUAGE = 0.1


@dataclass(frozen=True, slots=True)
class Label:
    """`claims` are (kind, value) pairs in no particular order: what the text was written to say."""

    text: str
    claims: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wish:
    """What is asked of a description.

    Attributes:
        kinds: mention these kinds of fact, each of them, and no other; None leaves it to chance.
        tail_words: how many of the last words to quote, one of these at random.
        avoid: a text whose wording is not to be used again where there is another.
    """

    kinds: Collection[str] | None = None
    tail_words: tuple[int, ...] = (2,)
    avoid: str = ""


class _Snippets:
    def __init__(self, state: State, rng: random.Random, wish: Wish):
        self.state, self.rng, self.wish = state, rng, wish
        self.claims: list[tuple[str, str]] = []

    def phrase(self, kind: str) -> str | None:
        """Words for the state's value of `kind`, or None where it has none or is not mentioned."""
        value = self.state.facts.get(kind)
        by_chance = self.rng.random() < MENTION.get(kind, 1.0)
        if value is None or not (by_chance if self.wish.kinds is None else self.wants(kind)):
            return None
        self.claims.append((kind, value))
        return self.choice(PHRASES[kind][value]) if kind in PHRASES else value

    def wants(self, kind: str) -> bool:
        return self.wish.kinds is None or kind in self.wish.kinds

    def choice(self, wordings: Sequence[str]) -> str:
        """One of several wordings, another than the text to avoid has where there is one."""
        fresh = [words for words in wordings if words not in self.wish.avoid.lower()]
        return self.rng.choice(fresh or wordings)

    def setting(self) -> str:
        """Setting and form: "A gloomy tale about the sea, told by a sailor, in plain words."."""
        mood, genre, topic = self.phrase("mood"), self.phrase("genre"), self.phrase("topic")
        noun = " ".join(part for part in (mood, genre or "text", topic) if part)
        parts = [part for part in (self.phrase("register"), self.phrase("speaker")) if part]
        self.rng.shuffle(parts)
        foreign = self.state.facts.get("language") == "spanish"
        if foreign or self.wish.kinds is not None or self.rng.random() < UNASKED_LANGUAGE:
            parts += [part for part in (self.phrase("language"),) if part]
        article = "An" if noun[0] in "aeiou" else "A"
        return ", ".join([f"{article} {noun}", *parts]) + "."

    def content(self) -> str:
        """What happens and what is planned, a sentence each."""
        day, wind = self.phrase("day"), self.phrase("wind")
        drill = self.phrase("drill")
        weather = wind and f"the wind is in the {wind}"
        parts = [self._wish(), day and f"it is {day}", weather, drill, *self._plans()]
        return " ".join(part[0].upper() + part[1:] + "." for part in parts if part)

    def _wish(self) -> str | None:
        person, goal, noun = self.phrase("person"), self.phrase("goal"), self.phrase("object")
        if goal:
            thing = f"the {noun}" if noun else "something"
            return f"{person or 'someone'} wants to {goal} {thing}"
        if noun:
            return f"{person or 'someone'} has the {noun}"
        return person and f"{person} is in it"

    def _plans(self) -> list[str | None]:
        rhyme, total = self.phrase("rhyme"), self.phrase("sum")
        answer, count = self.phrase("answer"), self.phrase("count")
        return [
            rhyme and f'the rhyme will be "{rhyme}"',
            total and f"the total will be {total}",
            answer and f'the answer will be "{answer}"',
            count and f"it will own up to {count} call{'' if count == 'one' else 's'}",
            self.phrase("switch"),
        ]

    def ending(self) -> str:
        """The final token and what must follow."""
        following = self._next()
        if not self.wants("last"):
            return following and f"Then {following}."
        tail = " ".join(self.state.last_words[-self.rng.choice(self.wish.tail_words) :])
        self.claims.append(("last", tail))
        lead = self.rng.choice(("It ends on", "It stops at"))
        return f'{lead} "{tail}"' + (f", then {following}." if following else ".")

    def _next(self) -> str:
        value = next_value(self.state)
        if not self.wants("next"):
            return ""
        if value is None:
            return "" if self.wish.kinds is not None else self.rng.choice(NEXT_OPEN)
        self.claims.append(("next", value))
        if value.startswith("word "):
            return f'"{value[5:]}"'
        return self.choice(NEXT[value])


def describe(
    state: State, rng: random.Random, wish: Wish | None = None, shuffled: bool = False
) -> Label:
    """The explanation of one state; `shuffled` puts its snippets in any order."""
    snippets = _Snippets(state, rng, wish or Wish())
    parts = [snippets.setting(), snippets.content(), snippets.ending()]
    if shuffled:
        rng.shuffle(parts)
    return Label(" ".join(part for part in parts if part), tuple(snippets.claims))


def label(document: Document, char_end: int, seed: int = 0, wish: Wish | None = None) -> Label:
    """The explanation of `document.text[:char_end]`; the same for the same place, seed and wish."""
    rng = random.Random(f"{seed}/{document.id}/{char_end}")
    return describe(document.state(char_end), rng, wish)
