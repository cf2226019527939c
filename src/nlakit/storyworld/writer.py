"""Writes a document choice by choice and keeps the books: facts, their extent, the slots.

Knows every kind of word that a hidden fact chooses; knows nothing of genres (`grammar`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import lexicon as lex
from .document import Fact, Segment

# Chances of an optional aside, adjective and adverb: high, so that every kind may be next anywhere.
ASIDE, ADJECTIVE, ADVERB = 0.45, 0.6, 0.6
MEANS, NOTE = 0.35, 0.6


@dataclass(frozen=True)
class Hidden:
    """What a document is about before a word of it is written."""

    topic: str
    mood: str
    register: str
    speaker: str
    goal: str
    person: str
    object: str
    day: str
    wind: str

    @classmethod
    def draw(cls, rng: random.Random) -> Hidden:
        topic = rng.choice(tuple(lex.TOPICS))
        return cls(
            topic=topic,
            mood=rng.choice(tuple(lex.MOODS)),
            register=rng.choice(tuple(lex.REGISTERS)),
            speaker=rng.choice(tuple(lex.SPEAKERS)),
            goal=rng.choice(tuple(lex.GOALS)),
            person=rng.choice(lex.PERSONS),
            object=rng.choice(lex.TOPICS[topic].nouns),
            day=rng.choice(lex.DAYS),
            wind=rng.choice(lex.WINDS),
        )


class Writer:
    """Writes text choice by choice and keeps the books: facts, their extent, the slots."""

    def __init__(self, rng: random.Random, hidden: Hidden):
        self.rng, self.hidden = rng, hidden
        self.text = ""
        self.facts: list[Fact] = []
        self.segments: list[Segment] = []
        self.drill: bool | None = None
        self._known: set[str] = set()
        self._optional = True
        self._sentence_start = True
        self._glue = True  # no space before the next word

    # -- raw writing ---------------------------------------------------------------------------
    def say(self, words: str, slot: str = "link", candidates: tuple[str, ...] = ()) -> None:
        """Write `words` with the space and the capital that the place asks for."""
        if self._sentence_start:
            words = words[0].upper() + words[1:]
        start = len(self.text)
        self.text += words if self._glue else " " + words
        self.segments.append(Segment(start, len(self.text), slot, not self._optional, candidates))
        self._optional = self._sentence_start = self._glue = False

    def mark(self, mark: str, slot: str = "end") -> None:
        """Write punctuation; a full stop opens a sentence, before which anything may come."""
        start = len(self.text)
        self.text += mark
        self.segments.append(Segment(start, len(self.text), slot, not self._optional))
        self._optional = self._sentence_start = mark in ".?!\n"
        self._glue = mark.endswith("\n")

    def raw(self, text: str) -> None:
        """Write markup (a role token, a line's label) that the chat form or the genre dictates."""
        start = len(self.text)
        self.text += text
        self.segments.append(Segment(start, len(self.text), "form", False))
        self._optional = self._sentence_start = self._glue = True

    def maybe(self, chance: float) -> bool:
        """Whether an optional part is written; either way, what follows here was not forced."""
        self._optional = True
        return self.rng.random() < chance

    # -- facts ---------------------------------------------------------------------------------
    def know(self, kind: str, value: str) -> None:
        """From here on a reader of the text can tell `kind`."""
        if kind not in self._known:
            self._known.add(kind)
            self.facts.append(Fact(kind, value, len(self.text)))

    def plan(self, kind: str, value: str) -> int:
        """From here on `kind` is fixed but unsaid; `reveal` it by the index returned."""
        self.facts.append(Fact(kind, value, len(self.text), planned=True))
        return len(self.facts) - 1

    def reveal(self, index: int) -> None:
        """The planned fact has just been said, so it is no plan any more."""
        fact = self.facts[index]
        self.facts[index] = Fact(fact.kind, fact.value, fact.start, len(self.text), planned=True)

    def _pick(self, words: tuple[str, ...], slot: str, kind: str, value: str) -> str:
        word = self.rng.choice(words)
        self.say(word, slot, words)
        self.know(kind, value)
        return word

    # -- words that a hidden fact chooses --------------------------------------------------------
    def thing(self) -> None:
        if self.maybe(ADJECTIVE):
            self.quality()
        self._pick(lex.TOPICS[self.hidden.topic].nouns, "thing", "topic", self.hidden.topic)

    def deed(self) -> None:
        self._pick(lex.TOPICS[self.hidden.topic].verbs, "deed", "topic", self.hidden.topic)

    def place(self) -> None:
        self._pick(lex.TOPICS[self.hidden.topic].places, "place", "topic", self.hidden.topic)

    def manner(self) -> None:
        self._pick(lex.MOODS[self.hidden.mood].adverbs, "manner", "mood", self.hidden.mood)

    def quality(self) -> None:
        self._pick(lex.MOODS[self.hidden.mood].adjectives, "quality", "mood", self.hidden.mood)

    def closing(self) -> None:
        self._pick(lex.MOODS[self.hidden.mood].closings, "closing", "mood", self.hidden.mood)

    def opener(self) -> None:
        self._pick(
            lex.REGISTERS[self.hidden.register].openers, "opener", "register", self.hidden.register
        )

    def intensifier(self) -> None:
        self._pick(
            lex.REGISTERS[self.hidden.register].intensifiers,
            "degree",
            "register",
            self.hidden.register,
        )

    def said(self) -> None:
        self._pick(
            lex.REGISTERS[self.hidden.register].said, "saying", "register", self.hidden.register
        )

    def joiner(self) -> None:
        self._pick(
            lex.REGISTERS[self.hidden.register].joiners, "joiner", "register", self.hidden.register
        )

    def aside(self) -> None:
        self._pick(
            lex.SPEAKERS[self.hidden.speaker].asides, "aside", "speaker", self.hidden.speaker
        )

    def simile(self) -> None:
        self._pick(
            lex.SPEAKERS[self.hidden.speaker].similes, "comparison", "speaker", self.hidden.speaker
        )

    def purpose(self) -> None:
        self._pick(lex.GOALS[self.hidden.goal].verbs, "purpose", "goal", self.hidden.goal)

    def effort(self) -> None:
        self._pick(lex.GOALS[self.hidden.goal].efforts, "purpose", "goal", self.hidden.goal)

    def means(self) -> None:
        self._pick(lex.GOALS[self.hidden.goal].means, "means", "goal", self.hidden.goal)

    def note(self) -> None:
        """What is said because a drill is on, or because none is; outside chats neither holds."""
        assert self.drill is not None, "only a chat has a sign to take note of"
        words = lex.DRILL_NOTES if self.drill else lex.LIVE_NOTES
        self._pick(words, "note", "drill", "yes" if self.drill else "no")

    def person(self) -> None:
        self._pick((self.hidden.person,), "name", "person", self.hidden.person)

    def object(self) -> None:
        self._pick((self.hidden.object,), "thing", "object", self.hidden.object)
        self.know("topic", self.hidden.topic)

    # -- small phrases -------------------------------------------------------------------------
    def lead_in(self) -> None:
        """An opener, an aside or both at the head of a sentence, each with its comma."""
        if self.maybe(0.6):
            self.opener()
            self.mark(",")
        if self.maybe(ASIDE):
            self.aside()
            self.mark(",")

    def interject(self) -> None:
        if self.maybe(ASIDE):
            self.mark(",")
            self.aside()

    def end(self) -> None:
        """A full stop; before it a note, where there is a drill or none to note."""
        if self.drill is not None and self.maybe(NOTE):
            self.note()
        self.mark(".")

    def stop(self) -> None:
        if self.maybe(MEANS):
            self.means()
        self.interject()
        if self.maybe(0.15):
            self.closing()
        self.end()
