"""Paraphrases an explanation, with the same claims, none added and none lost; or writes it without
some of them.

An NLA whose verbalizer and reconstructor have agreed on a private code (a word that stands for
something else, the order of sentences) loses its fidelity when its explanations are paraphrased;
one that means what it says keeps it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from .claims import Claim, parse
from .document import State
from .teacher import Wish, describe
from .wording import NEXT

WORD = "word "


def reword(explanation: str, seed: int) -> str:
    """The claims of `explanation` in the teacher's words: synonyms where it has them, other order.

    What the checker does not understand cannot be said again and is left out; so is a second value
    of a kind, and a claim about what follows that the teacher has no words for. An explanation
    that claims nothing comes back as it is.
    """
    found = parse(explanation)
    state = _claimed(found)
    kinds = {claim.kind for claim in found}
    if not kinds:
        return explanation
    rng = random.Random(f"{seed}/{explanation}")
    wish = Wish(kinds, tail_words=(len(state.last_words),), avoid=explanation.lower())
    return describe(state, rng, wish, shuffled=True).text


def without(explanation: str, dropped: Collection[Claim]) -> str:
    """The claims of `explanation` but some, as the teacher puts them; "" where none is left.

    What `reword` cannot say again is left out here as well.
    """
    gone = {(claim.kind, claim.value) for claim in dropped}
    kept = [claim for claim in parse(explanation) if (claim.kind, claim.value) not in gone]
    if not kept:
        return ""
    state = _claimed(kept)
    wish = Wish({claim.kind for claim in kept}, tail_words=(len(state.last_words),))
    return describe(state, random.Random(explanation), wish).text


def _claimed(found: Sequence[Claim]) -> State:
    """A state of which exactly the claims are true; the first of a kind holds."""
    facts: dict[str, str] = {}
    for claim in found:
        facts.setdefault(claim.kind, claim.value)
    last, following = facts.pop("last", ""), facts.pop("next", None)
    word = following is not None and following.startswith(WORD)
    return State(
        facts=facts,
        planned=frozenset(),
        last_words=tuple(last.split()),
        next_slot="link" if word else following if following in NEXT else None,
        next_words=(following.removeprefix(WORD),) if word and following else (),
    )
