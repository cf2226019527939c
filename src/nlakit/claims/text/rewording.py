"""Rewrites an explanation: its claims paraphrased, or without some of them."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from nlakit.claim import Claim

from .finding import find
from .wording import Told, describe


def reword(explanation: str, seed: int) -> str:
    """A paraphrase of the claims of `explanation`; one that claims nothing comes back as it is.

    What the finder does not understand cannot be said again and is left out; so is a second value
    of a kind that has one.
    """
    found = find(explanation)
    if not found:
        return explanation
    rng = random.Random(f"{seed}/{explanation}")
    return describe(_told(found), rng, avoid=explanation)


def without(explanation: str, dropped: Collection[Claim]) -> str:
    """The explanation without some of the claims that `find` finds in it; "" where none is left."""
    gone = {(claim.kind, claim.value) for claim in dropped}
    kept = [claim for claim in find(explanation) if (claim.kind, claim.value) not in gone]
    return describe(_told(kept), random.Random(explanation)) if kept else ""


def _told(claims: Sequence[Claim]) -> Told:
    values: dict[str, list[str]] = {}
    for claim in claims:
        values.setdefault(claim.kind, []).append(claim.value)

    def one(kind: str) -> str | None:
        return next(iter(values.get(kind, ())), None)

    def every(kind: str) -> tuple[str, ...]:
        return tuple(values.get(kind, ()))

    return Told(
        form=one("form"),
        subject=every("subject"),
        name=every("name"),
        number=every("number"),
        speaker=one("speaker"),
        asked=every("asked"),
        open=every("open"),
        before=one("before") or "",
        last=one("last") or "",
        next=every("next"),
    )
