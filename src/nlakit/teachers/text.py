"""The teacher "text": writes labels by rule from the text and the target's next-token guesses.

No model takes part but the target. What it says can be checked (`claims.text`): the kind of text,
what it is about, the names and numbers so far, who speaks and what was asked, what is open, the
last words, and the tokens that the target finds likely next.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import fields, replace

from nlakit.claims.text.state import state_of
from nlakit.claims.text.wording import Told, describe, told_of
from nlakit.data.labels import Place, TeacherLabel

NOTHING = "the text says nothing that a rule finds"
EMPTY = {field.name: field.default for field in fields(Told)}
"""Of each kind of claim, what stands where nothing is said."""


class TextTeacher:
    """Labels by rule; the wording is drawn from what is shown and the seed.

    Args:
        shares: of some kinds of claims (`Told`'s fields), the share of labels that state them where
            the text has any; kinds without one are always stated. A label spends its tokens on
            what an activation can carry, and a judge still learns every kind.

    Raises:
        ValueError: a share outside 0 to 1, or of a kind that no label states.
    """

    def __init__(self, seed: int = 0, shares: Mapping[str, float] | None = None) -> None:
        self.seed = seed
        self.shares = dict(sorted((shares or {}).items()))
        check_shares(self.shares)
        # Labels that are there are taken for this teacher's by its name alone.
        stated = ", ".join(f"{kind} {share:g}" for kind, share in self.shares.items())
        self.name = f"text-{seed} ({stated})" if stated else f"text-{seed}"

    def key(self, place: Place) -> str:
        """A hash of all that decides the label."""
        shown = (place.text, place.doc_id.rpartition("-")[0], place.turns, place.guesses)
        decided = (*shown, self.shares) if self.shares else shown
        return hashlib.sha256(repr(decided).encode()).hexdigest()

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position, with the claims that it makes."""
        told = told_of(state_of(place))
        if told == Told():
            return TeacherLabel(None, refusal=NOTHING)
        rng = random.Random(f"{self.seed}/{self.key(place)}")
        told = self._thinned(told, rng)
        return TeacherLabel(describe(told, rng), told.claims())

    def _thinned(self, told: Told, rng: random.Random) -> Told:
        """Without the kinds that this label does not state; whole where nothing would be left."""
        dropped = {
            kind: EMPTY[kind] for kind, share in self.shares.items() if rng.random() >= share
        }
        thinned = replace(told, **dropped)
        return told if thinned == Told() else thinned


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises ValueError for a share outside 0 to 1, or of a kind that no label states."""
    for kind, share in shares.items():
        if kind not in EMPTY:
            raise ValueError(f"{kind!r}: expected one of {', '.join(EMPTY)}")
        if not 0 <= share <= 1:
            raise ValueError(f"{kind} = {share:g}: expected a share from 0 to 1")
