"""What a label says, in varied English: every statement is one that `finding` reads back.

Lists keep their order, the likeliest first, so that an AV which is sure of a value is sure of its
place too: only the words around the values vary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .state import TextState

FORM_PHRASES: dict[str, tuple[str, ...]] = {
    "chat": ("a conversation", "a chat"),
    "code": ("source code", "program code"),
    "diary": ("a diary", "a journal entry"),
    "drama": ("a play", "a drama"),
    "encyclopedia": ("an encyclopedia article", "an encyclopedic entry"),
    "fiction": ("a novel", "a work of fiction"),
    "science": ("a scientific treatise", "a scientific work"),
    "speech": ("a political speech", "a speech"),
    "technical": ("technical documentation", "a technical manual"),
    "verse": ("a poem", "verse"),
    "web": ("a web page", "a web article"),
}
SPEAKER_PHRASES = ("the {} is speaking", "the {} speaks", "it is the {}'s turn")
OPEN_PHRASES: dict[str, tuple[str, ...]] = {
    "quotation": ("a quotation is open", "it is inside a quotation"),
    "bracket": ("a bracket is open", "it is inside a bracket"),
    "list": ("it is inside a list", "a list is going on"),
    "code": ("it is inside a code block", "a code block is open"),
    "question": ("a question was just asked", "it has just asked a question"),
    "heading": ("it is inside a heading", "a heading is being written"),
    "comment": ("it is inside a comment", "a comment is being written"),
}
TOKEN_NAMES = {
    ",": "a comma", ".": "a full stop", "\n": "a new line", '"': "a quotation mark",
    "?": "a question mark", ":": "a colon", ";": "a semicolon", "(": "a bracket",
}  # fmt: skip
"""Tokens that are named rather than quoted."""

NUM_SUBJECTS, NUM_NAMES, NUM_NUMBERS, NUM_ASKED, NUM_LIKELY = 3, 3, 2, 3, 3


@dataclass(frozen=True)
class Told:
    """What a label says; empty where it says nothing of a kind.

    Attributes:
        before: the words before the last one.
        last: the last word, or the part of one so far.
    """

    form: str | None = None
    subject: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    number: tuple[str, ...] = ()
    speaker: str | None = None
    asked: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    before: str = ""
    last: str = ""
    next: tuple[str, ...] = ()

    def claims(self) -> tuple[tuple[str, str], ...]:
        """What it says as pairs of kind and value."""
        found: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,) if value else ()
            found += [(field.name, each) for each in values]
        return tuple(found)


def told_of(state: TextState) -> Told:
    """What a label says of a state."""
    before, _, last = state.tail.rpartition(" ")
    return Told(
        form=state.form,
        subject=state.subjects[:NUM_SUBJECTS],
        name=state.names[:NUM_NAMES],
        number=state.numbers[:NUM_NUMBERS],
        speaker=state.speaker,
        asked=state.asked[:NUM_ASKED],
        open=state.opened,
        before=quotable(before),
        last=quotable(last),
        next=state.likely[:NUM_LIKELY],
    )


def quotable(words: str) -> str:
    """Words as they stand between double quotes: others take their place."""
    return words.replace('"', "'").replace("“", "'").replace("”", "'")


def describe(told: Told, rng: random.Random, avoid: str = "") -> str:
    """A label in paragraphs: the whole, then what was said, then where the text stands.

    Args:
        avoid: a text whose wordings are not used again where there are others.
    """
    writer = _Writer(rng, avoid.lower())
    paragraphs = (writer.whole(told), writer.said(told), writer.here(told))
    return "\n\n".join(each for each in paragraphs if each)


class _Writer:
    def __init__(self, rng: random.Random, avoid: str) -> None:
        self.rng, self.avoid = rng, avoid

    def choice(self, wordings: Sequence[str]) -> str:
        fresh = [each for each in wordings if _carrier(each) not in self.avoid]
        return self.rng.choice(fresh or list(wordings))

    def whole(self, told: Told) -> str:
        """What kind of text it is, and what it is about."""
        form = self.choice(FORM_PHRASES[told.form]) if told.form else "a text"
        if not told.subject:
            return _sentence(form) if told.form else ""
        subjects = self.listed(told.subject)
        wordings = ("{} about {}", "{} on {}", "{}, about {}", "{}; its subject: {}")
        return _sentence(self.choice(wordings).format(form, subjects))

    def said(self, told: Told) -> str:
        """Names and numbers so far, who speaks, and what was asked."""
        parts = []
        if told.name or told.number:
            wordings = ("it has named {}", "it mentions {}", "so far it names {}", "named: {}")
            parts.append(self.choice(wordings).format(self.listed([*told.name, *told.number])))
        if told.speaker:
            parts.append(self.choice(SPEAKER_PHRASES).format(told.speaker))
        if told.asked:
            wordings = ("the user asked about {}", "the user asked for {}", "the user wants {}")
            parts.append(self.choice(wordings).format(self.listed(told.asked)))
        return " ".join(map(_sentence, parts))

    def here(self, told: Told) -> str:
        """What is open, the last words, and what may follow."""
        opened = [_sentence(self.choice(OPEN_PHRASES[each])) for each in told.open]
        tail = " ".join(part for part in (told.before, told.last) if part)
        parts = []
        if tail:
            wordings = ('it stops at "{}"', 'it ends on "{}"', 'its last words are "{}"')
            parts.append(self.choice(wordings).format(tail))
        if told.next:
            wordings = ("next may come {}", "then {} may follow", "what comes next may be {}")
            parts.append(self.choice(wordings).format(_alternatives(told.next)))
        return " ".join([*opened, _sentence("; ".join(parts))]).strip()

    def listed(self, values: Sequence[str]) -> str:
        """ "a, b and c"."""
        return " and ".join([", ".join(values[:-1]), values[-1]] if values[1:] else values)


def say_next(tokens: Sequence[str]) -> str:
    """A sentence that names tokens which may come next."""
    return describe(Told(next=tuple(each for each in tokens if each)), random.Random(0))


def token_phrase(token: str) -> str:
    """A token as it is claimed: its name, or itself in quotes."""
    return TOKEN_NAMES.get(token) or f'"{quotable(token)}"'


def _alternatives(tokens: Sequence[str]) -> str:
    phrases = [token_phrase(token) for token in tokens]
    return " or ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)


def _carrier(wording: str) -> str:
    """The longest stretch of a wording between its values: what tells it from the others."""
    return max(wording.split("{}"), key=len).strip(' "')


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "." if words else ""
