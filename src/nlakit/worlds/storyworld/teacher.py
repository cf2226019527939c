"""The teacher of the storyworld: writes labels from the known state of a document."""

from __future__ import annotations

from functools import lru_cache

from nlakit.storyworld import teacher
from nlakit.storyworld.grammar import document
from nlakit.teachers.base import Place, TeacherLabel

_document = lru_cache(maxsize=256)(document)


class StoryworldTeacher:
    """Knows each document by (seed, index) and words its state at `char_end`."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.name = f"storyworld-{seed}"

    def key(self, place: Place) -> str:
        """The document and the place in it: the wording is drawn from these."""
        return f"{place.seed}-{place.index}/{place.char_end}"

    def label(self, place: Place) -> TeacherLabel:
        """The explanation of the place, with the claims it was written to make."""
        made = teacher.label(_document(place.seed, place.index), place.char_end, self.seed)
        return TeacherLabel(made.text, made.claims)
