"""The storyworld's teacher: writes the explanation of a prefix from the state it is in.

Two or three snippets (setting and form; content and plan; the final token and what must follow) in
varied wording. Like any teacher it sees the text, not the vector: it may name facts that the
activation does not hold. That is the field's problem and not an oversight.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .claims import next_value
from .document import Document, State
from .wording import NEXT, NEXT_OPEN, PHRASES

# How often a fact that holds is mentioned. The day is the control: nothing can be read of it later.
MENTION = {"person": 0.7, "goal": 0.85, "object": 0.35, "day": 0.4}
UNASKED_LANGUAGE = 0.1


@dataclass(frozen=True, slots=True)
class Label:
    """`claims` are (kind, value) pairs in no particular order: what the text was written to say."""

    text: str
    claims: tuple[tuple[str, str], ...]


class _Snippets:
    def __init__(self, state: State, rng: random.Random):
        self.state, self.rng = state, rng
        self.claims: list[tuple[str, str]] = []

    def phrase(self, kind: str) -> str | None:
        """Words for the state's value of `kind`, or None where it has none or is not mentioned."""
        value = self.state.facts.get(kind)
        if value is None or self.rng.random() >= MENTION.get(kind, 1.0):
            return None
        self.claims.append((kind, value))
        return self.rng.choice(PHRASES[kind][value]) if kind in PHRASES else value

    def setting(self) -> str:
        """Setting and form: "A gloomy tale about the sea, told by a sailor, in plain words."."""
        mood, genre, topic = self.phrase("mood"), self.phrase("genre"), self.phrase("topic")
        noun = " ".join(part for part in (mood, genre or "text", topic) if part)
        parts = [part for part in (self.phrase("register"), self.phrase("speaker")) if part]
        self.rng.shuffle(parts)
        if self.state.facts.get("language") == "spanish" or self.rng.random() < UNASKED_LANGUAGE:
            parts += [part for part in (self.phrase("language"),) if part]
        article = "An" if noun[0] in "aeiou" else "A"
        return ", ".join([f"{article} {noun}", *parts]) + "."

    def content(self) -> str:
        """What happens and what is planned, a sentence each."""
        day = self.phrase("day")
        drill = self.phrase("drill")
        parts = [self._wish(), day and f"it is {day}", drill, *self._plans()]
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
        tail = " ".join(self.state.last_words[-2:])
        self.claims.append(("last", tail))
        lead = self.rng.choice(("It ends on", "It stops at"))
        return f'{lead} "{tail}", then {self._next()}.'

    def _next(self) -> str:
        value = next_value(self.state)
        if value is None:
            return self.rng.choice(NEXT_OPEN)
        self.claims.append(("next", value))
        if value.startswith("word "):
            return f'"{value[5:]}"'
        return self.rng.choice(NEXT[value])


def describe(state: State, rng: random.Random) -> Label:
    """The explanation of one state."""
    snippets = _Snippets(state, rng)
    text = " ".join(
        part for part in (snippets.setting(), snippets.content(), snippets.ending()) if part
    )
    return Label(text, tuple(snippets.claims))


def label(document: Document, char_end: int, seed: int = 0) -> Label:
    """The explanation of `document.text[:char_end]`; the same for the same place and seed."""
    rng = random.Random(f"{seed}/{document.id}/{char_end}")
    return describe(document.state(char_end), rng)
