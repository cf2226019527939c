"""The storyworld's claim system: its grammar finds claims, its states say which are true."""

from __future__ import annotations

from nlakit.claim import Fact
from nlakit.claims.system import Checker, ClaimSystem
from nlakit.storyworld.claims import check, next_value, parse
from nlakit.storyworld.document import KINDS, State
from nlakit.storyworld.extent import extent
from nlakit.storyworld.rewording import reword, without

# The last words are no class, what comes next is the target's own task, a switch has one value.
PROBED = tuple(kind for kind in KINDS if kind not in ("last", "next", "switch"))


def facts(state: State) -> dict[str, Fact]:
    """All of the state, the last words, and what comes next where the grammar forces it.

    English goes without saying.
    """
    found = {
        kind: Fact(
            (value,),
            counts=(kind, value) != ("language", "english"),
            planned=kind in state.planned,
        )
        for kind, value in state.facts.items()
    }
    if state.last_words:
        found["last"] = Fact((" ".join(state.last_words),))
    expected = next_value(state)
    if expected is not None:
        found["next"] = Fact((expected,))
    return found


STORYWORLD = ClaimSystem(
    name="storyworld",
    kinds=KINDS,
    find=parse,
    extent=extent,
    control_kinds=frozenset({"day", "wind"}),
    checker=Checker(check=check, facts=facts, probed=PROBED),
    reword=reword,
    without=without,
    topical=frozenset({"genre", "topic"}),
)
