"""A teacher of texts as a baseline: what it writes who reads the text and not the vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nlakit.data.labels import Place, Teacher, ask, places_of

from .eval_set import EvalRows


@dataclass(frozen=True)
class TeacherReader:
    """Asks a teacher that answers at once, such as "text"."""

    teacher: Teacher

    def labels(self, rows: EvalRows) -> list[str]:
        """The teacher's labels; "" where it has none."""
        return self._asked(list(places_of(rows.rows)))

    def relabelled(self, rows: EvalRows, texts: Sequence[str]) -> list[str]:
        """Its labels of other texts; of a changed text nobody knows the turns of a chat."""
        places = zip(places_of(rows.rows), texts, strict=True)
        return self._asked([replace(place, text=text, turns=()) for place, text in places])

    def keywords(self, text: str, ending: bool = True) -> str:
        """What it makes of the words alone: neither the kind of text nor next tokens are told."""
        return self._asked([Place(text, 0, 0, len(text))])[0]

    def _asked(self, places: Sequence[Place]) -> list[str]:
        return [label.explanation or "" for label in ask(self.teacher, places)]
