"""The teacher of the storyworld: writes labels from the known state of a document."""

from __future__ import annotations

from functools import lru_cache

from nlakit.data.labels import Place, TeacherLabel
from nlakit.errors import InputError
from nlakit.storyworld import teacher
from nlakit.storyworld.grammar import document

_document = lru_cache(maxsize=256)(document)
SHOWN = 60


class StoryworldTeacher:
    """Knows each document by (seed, index) and words its state at `char_end`."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.name = f"storyworld-{seed}"

    def key(self, place: Place) -> str:
        """The document and the place in it: the wording is drawn from these."""
        return f"{place.seed}-{place.index}/{place.char_end}"

    def label(self, place: Place) -> TeacherLabel:
        """The explanation of the place, with the claims it was written to make.

        Raises:
            InputError: the place is not of the storyworld: its text is another.
        """
        known = _document(place.seed, place.index)
        if known.text[: place.char_end] != place.text:
            raise InputError(
                f"Asked the storyworld's teacher for row {place.index} of seed {place.seed}; its "
                f"text begins {place.text[:SHOWN]!r}, that of the storyworld's document "
                f"{known.text[:SHOWN]!r}. These rows are of another corpus: ask another teacher "
                "(text, hf:DIRECTORY, anthropic:MODEL, openai:MODEL)."
            )
        made = teacher.label(known, place.char_end, self.seed)
        return TeacherLabel(made.text, made.claims)
