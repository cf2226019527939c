"""Whether claims about a text are true of it, decided by the text and the target's probabilities.

True, false, or uncheckable where the rows do not say: the kind of a text whose corpus names none,
who speaks in a text without messages, next tokens that nobody asked the target for.
"""

from __future__ import annotations

import re

from nlakit.claim import Claim, Fact, Verdict
from nlakit.claims.system import Checker, ClaimSystem

from .finding import extent, find
from .rewording import reword, without
from .state import TextState, states_of
from .wording import quotable, say_next
from .words import NUMBER, WORD, stem

KINDS = (
    "form", "subject", "name", "number", "speaker", "asked", "open", "before", "last", "next",
)  # fmt: skip


def check(claim: Claim, state: TextState) -> Verdict:
    """Whether a claim is true of a state."""
    if claim.kind == "form":
        return _known(state.form, claim.value)
    if claim.kind == "speaker":
        return _known(state.speaker, claim.value)
    if claim.kind == "next":
        return _next(claim.value, state)
    checks = {
        "subject": lambda: _all_said(claim.value, state.stems),
        "name": lambda: _said(claim.value, state.text),
        "number": lambda: any(each[0] == claim.value for each in NUMBER.finditer(state.text)),
        "asked": lambda: bool(state.request) and _all_said(claim.value, state.asked_stems),
        "open": lambda: claim.value in state.opened,
        "before": lambda: _ends(state.text, claim.value, before_last=True),
        "last": lambda: _ends(state.text, claim.value, before_last=False),
    }
    return "true" if checks[claim.kind]() else "false"


def facts(state: TextState) -> dict[str, Fact]:
    """What is true of a state by kind, as far as a label would say it."""
    before, _, last = quotable(state.tail).rpartition(" ")
    found = {
        "form": (state.form,) if state.form else (),
        "subject": state.subjects,
        "name": state.names,
        "number": state.numbers,
        "speaker": (state.speaker,) if state.speaker else (),
        "asked": state.asked,
        "open": state.opened,
        "before": (before.rpartition(" ")[2],) if before else (),
        "last": (last,) if last else (),
        "next": state.likely,
    }
    return {kind: Fact(values) for kind, values in found.items() if values}


def _known(truth: str | None, value: str) -> Verdict:
    if truth is None:
        return "uncheckable"
    return "true" if value == truth else "false"


def _next(value: str, state: TextState) -> Verdict:
    if not state.guesses:
        return "uncheckable"
    wanted = quotable(value)
    return "true" if any(quotable(each) == wanted for each in state.likely) else "false"


def _all_said(value: str, stems: frozenset[str]) -> bool:
    words = WORD.findall(value)
    return bool(words) and all(stem(word) in stems for word in words)


def _said(value: str, text: str) -> bool:
    """Whether a name stands in a text as a whole, whatever its blanks, dots and capitals."""
    inner = r"\.?\s+".join(re.escape(part) for part in value.split())
    # The number of a note may stand right behind a name.
    return re.search(rf"(?<![^\W_]){inner}(?![^\W\d_])", text, re.IGNORECASE) is not None


def _ends(text: str, words: str, *, before_last: bool) -> bool:
    """Whether the text's last pieces, or those before the last one, are these words.

    A piece is what stands between blanks. The first of the words may leave out what stands before
    it in its piece, up to a mark: a text that stops at "12:4" stops at "4" as well.
    """
    said = quotable(words).lower().split()
    pieces = [quotable(piece).lower() for piece in text[-400:].split()]
    if before_last:
        pieces = pieces[:-1]
    if not said or len(pieces) < len(said):
        return False
    first, *rest = pieces[-len(said) :]
    return rest == said[1:] and _ends_on(first, said[0])


def _ends_on(piece: str, word: str) -> bool:
    if not piece.endswith(word):
        return False
    before = piece.removesuffix(word)
    return not (before and before[-1].isalnum() and word[0].isalnum())


TEXT = ClaimSystem(
    name="text",
    kinds=KINDS,
    find=find,
    extent=extent,
    checker=Checker(check=check, facts=facts, probed=KINDS, states_of=states_of),
    reword=reword,
    without=without,
    topical=frozenset({"form", "subject"}),
    say_next=say_next,
)
"""Claims of explanations in the manner of the teacher "text"."""
