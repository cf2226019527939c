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
MENTION = {"person": 0.75, "goal": 0.85, "object": 0.35, "day": 0.5, "language": 0.15}


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
        head = self.phrase("genre") or "A text"
        parts = [p for kind in ("mood", "register", "speaker", "topic") if (p := self.phrase(kind))]
        self.rng.shuffle(parts)
        if self.state.facts.get("language") == "spanish" or self.rng.random() < MENTION["language"]:
            parts += self._language()
        return " ".join([head, *parts[:1]]) + "".join(f", {part}" for part in parts[1:]) + "."

    def _language(self) -> list[str]:
        value = self.state.facts.get("language")
        if value is None:
            return []
        self.claims.append(("language", value))
        return [self.rng.choice(PHRASES["language"][value])]

    def content(self) -> str:
        parts = [part for part in (self.phrase("goal"), self._object(), self._person()) if part]
        self.rng.shuffle(parts)
        parts += [part for part in (self._day(), self.phrase("drill"), *self._plans()) if part]
        if not parts:
            return ""
        text = "; ".join(parts) + "."
        return text[0].upper() + text[1:]

    def _person(self) -> str | None:
        name = self.phrase("person")
        return name and self.rng.choice((f"{name} is the main figure", f"we follow {name}"))

    def _object(self) -> str | None:
        noun = self.phrase("object")
        return noun and self.rng.choice(
            (f"at stake is the {noun}", f"the thing in hand is the {noun}")
        )

    def _day(self) -> str | None:
        day = self.phrase("day")
        return day and f"it is {day}"

    def _plans(self) -> list[str | None]:
        rhyme, total = self.phrase("rhyme"), self.phrase("sum")
        answer, count = self.phrase("answer"), self.phrase("count")
        return [
            rhyme
            and self.rng.choice(
                (f'the line must rhyme on "{rhyme}"', f'the rhyme will be "{rhyme}"')
            ),
            total and self.rng.choice((f"the total will be {total}", f"it all comes to {total}")),
            answer
            and self.rng.choice((f'the answer is "{answer}"', f'the answer will be "{answer}"')),
            count and f"it will own up to {count} call{'' if count == 'one' else 's'}",
            self.phrase("switch"),
        ]

    def ending(self) -> str:
        tail = " ".join(self.state.last_words[-2:])
        self.claims.append(("last", tail))
        lead = self.rng.choice(
            ('The text stops at "{}"', 'It ends on "{}"', 'The last words are "{}"')
        )
        return lead.format(tail) + "; " + self._next() + "."

    def _next(self) -> str:
        value = next_value(self.state)
        if value is None:
            return self.rng.choice(NEXT_OPEN)
        self.claims.append(("next", value))
        if value.startswith("word "):
            return self.rng.choice(('the next word is "{}"', 'what follows is "{}"')).format(
                value[5:]
            )
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
