"""A claim system: what counts as a claim in an explanation, and who says whether it is true.

General code knows claims through this alone. A system that can check has states: what is known of a
row, made by the system or by a world of documents, and opaque to everybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlakit.claim import Claim, Extent, Fact, Verdict
from nlakit.data.labels import Place
from nlakit.errors import InputError

State = Any
"""What is known of a row. Only the system that checks against it looks inside."""


@dataclass(frozen=True)
class Checker:
    """Says what is true of a state.

    Attributes:
        check: whether a claim is true of a state.
        facts: what is true of a state, by kind: what an explanation could have claimed.
        probed: kinds whose values are classes that a probe can be trained to tell apart.
        states_of: the states of rows of any corpus; None where states come with a world's own
            documents only.
    """

    check: Callable[[Claim, State], Verdict]
    facts: Callable[[State], Mapping[str, Fact]]
    probed: tuple[str, ...] = ()
    states_of: Callable[[Sequence[Place]], list[State]] | None = None


def quoted_next(tokens: Sequence[str]) -> str:
    """'Then "a", "b".'"""
    return "Then " + ", ".join(f'"{each}"' for each in tokens) + "."


@dataclass(frozen=True)
class ClaimSystem:
    """How explanations are read as claims.

    Attributes:
        name: as a card gives it (`NlaCard.claims`).
        kinds: of claims, in the order of tables.
        find: an explanation to its claims, in order of appearance.
        extent: where one of them was decided, and in how many ways it could have been worded.
        control_kinds: facts that no activation has a reason to hold; they count in their own line
            only.
        checker: None where nobody knows what is true.
        reword: (explanation, seed) to a paraphrase that makes the same claims; None: it cannot.
        without: an explanation without some of its claims; "" where nothing is left. None: it
            cannot.
        topical: kinds that are the same all through a document, such as what it is about.
        say_next: tokens that may come next, as an explanation would say it.
    """

    name: str
    kinds: tuple[str, ...]
    find: Callable[[str], list[Claim]]
    extent: Callable[[str, Claim], Extent]
    control_kinds: frozenset[str] = field(default=frozenset())
    checker: Checker | None = None
    reword: Callable[[str, int], str] | None = None
    without: Callable[[str, Collection[Claim]], str] | None = None
    topical: frozenset[str] = field(default=frozenset())
    say_next: Callable[[Sequence[str]], str] = quoted_next

    def known(self) -> Checker:
        """The checker. Raises `InputError` for a system that has none."""
        if self.checker is None:
            raise InputError(
                f"Asked whether claims are true; nobody can check those of {self.name!r} "
                "explanations. Give a pair whose card names claims that can be checked."
            )
        return self.checker


def own_words(explanation: str, claim: Claim) -> Extent:
    """A claim is committed to by its own words, and nobody knows how else it might be said."""
    return Extent(claim.start, claim.end, 1)


def _none(explanation: str) -> list[Claim]:
    return []


NO_CLAIMS = ClaimSystem("none", (), _none, own_words)
"""Of explanations that nobody can read claims out of."""
