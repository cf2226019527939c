"""The teacher "text": writes labels by rule from the text and the target's next-token guesses.

No model takes part but the target. What it says can be checked (`claims.text`): the kind of text,
what it is about, the names and numbers so far, who speaks and what was asked, what is open, the
last words, and the tokens that the target finds likely next.
"""

from __future__ import annotations

import hashlib
import random

from nlakit.claims.text.state import state_of
from nlakit.claims.text.wording import Told, describe, told_of
from nlakit.data.labels import Place, TeacherLabel

NOTHING = "the text says nothing that a rule finds"


class TextTeacher:
    """Labels by rule; the wording is drawn from what is shown and the seed."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.name = f"text-{seed}"

    def key(self, place: Place) -> str:
        """A hash of all that decides the label."""
        shown = (place.text, place.doc_id.rpartition("-")[0], place.turns, place.guesses)
        return hashlib.sha256(repr(shown).encode()).hexdigest()

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position, with the claims that it makes."""
        told = told_of(state_of(place))
        if told == Told():
            return TeacherLabel(None, refusal=NOTHING)
        rng = random.Random(f"{self.seed}/{self.key(place)}")
        return TeacherLabel(describe(told, rng), told.claims())
