"""Where in an explanation a claim is committed to, and how many ways there were to word it.

`claims.parse` finds the word by which a claim is known ("buyer"). The choice was made at the first
word of its phrase ("find a buyer for"), and that is where its probability has to be read.
"""

from __future__ import annotations

import os
from functools import cache

from nlakit.claim import Claim, Extent

from .wording import NEXT, PHRASES


def extent(explanation: str, claim: Claim) -> Extent:
    """The extent of a claim; its own characters where the wording is not the teacher's."""
    lowered = explanation.lower()
    for phrase in _phrases(claim.kind).get(claim.value, ()):
        start = lowered.rfind(phrase, 0, claim.end + len(phrase))
        if start >= 0 and start <= claim.start and claim.end <= start + len(phrase):
            lead = len(_carrier(claim.kind))
            wordings = len(_phrases(claim.kind)[claim.value])
            return Extent(start + lead, start + len(phrase), wordings)
    return Extent(claim.start, claim.end, 1)


def _phrases(kind: str) -> dict[str, tuple[str, ...]]:
    return _lowered_next() if kind == "next" else _lowered(kind)


@cache
def _lowered(kind: str) -> dict[str, tuple[str, ...]]:
    table = PHRASES.get(kind, {})
    return {value: tuple(each.lower() for each in found) for value, found in table.items()}


@cache
def _lowered_next() -> dict[str, tuple[str, ...]]:
    return {value: tuple(each.lower() for each in found) for value, found in NEXT.items()}


@cache
def _carrier(kind: str) -> str:
    """What all phrases of a kind begin with, in whole words: "told by a " says nothing yet."""
    phrases = [each for found in _phrases(kind).values() for each in found]
    if len(phrases) < 3:
        return ""
    shared = os.path.commonprefix(phrases)
    return shared[: shared.rfind(" ") + 1]
