"""A teacher with a script, for tests and for trying a pipeline without asking anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .base import Place, TeacherLabel

LAST_WORDS = 8


def last_words(text: str) -> str:
    """An explanation in form only: it quotes where the text stands."""
    return f"A text that goes on after these words: {' '.join(text.split()[-LAST_WORDS:])}"


class FakeTeacher:
    """Answers by `script`, a function of the text; None is a refusal. `asked` keeps the texts."""

    def __init__(self, script: Callable[[str], str | None], name: str = "fake") -> None:
        self.script, self.name = script, name
        self.asked: list[str] = []

    def key(self, place: Place) -> str:
        """Hex SHA-256 of the text, which is all this teacher sees."""
        return hashlib.sha256(place.text.encode()).hexdigest()

    def label(self, place: Place) -> TeacherLabel:
        """What the script says of the text."""
        self.asked.append(place.text)
        answer = self.script(place.text)
        return TeacherLabel(answer, refusal="the script refuses" if answer is None else None)
