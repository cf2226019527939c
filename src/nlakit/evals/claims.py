"""Whether explanations say the truth about the storyworld, and how much of it.

One explanation and one state a row; the number of documents is that of the rows given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nlakit.config import FrozenModel
from nlakit.storyworld.claims import Claim, Verdict, check, next_value, parse
from nlakit.storyworld.document import KINDS, State

CONTROL_KINDS = frozenset({"day"})
"""Facts that no activation has a reason to hold. They count in their own line only."""


class KindScore(FrozenModel):
    """One kind of fact: precision of `claims` checked claims, recall of `facts` facts."""

    precision: float | None
    """None where no claim of the kind was checked."""
    recall: float | None
    """None where the kind was true of no row."""
    claims: int
    facts: int


class ClaimScores(FrozenModel):
    """Truth of the claims of `explanations` explanations."""

    precision: float
    """true / (true + false); 0 when nothing was claimed."""
    recall: float
    """Facts claimed rightly / facts. Counted: all of the state (plans included), the last words,
    and what comes next where the grammar forces it; not the control kinds, and English, which
    goes without saying, only in its own line."""
    checked: int
    """Claims that are true or false."""
    true: int
    false: int
    uncheckable: int
    facts: int
    explanations: int
    per_kind: dict[str, KindScore]


def verdicts(explanation: str, state: State) -> list[tuple[Claim, Verdict]]:
    """The claims of an explanation, each with its verdict."""
    return [(claim, check(claim, state)) for claim in parse(explanation)]


def facts_of(state: State) -> set[str]:
    """The kinds of which `state` holds a fact that an explanation could give."""
    forced = {"next"} if next_value(state) is not None else set()
    last = {"last"} if state.last_words else set()
    return set(state.facts) | forced | last


def score_claims(explanations: Sequence[str], states: Sequence[State]) -> ClaimScores:
    """Precision and recall over rows, overall and per kind.

    A fact is recalled when some claim of its kind is true; a second, false claim of that kind costs
    precision, not recall.
    """
    true: Counter[str] = Counter()
    false: Counter[str] = Counter()
    facts: Counter[str] = Counter()
    recalled: Counter[str] = Counter()
    counted_facts = counted_recalled = uncheckable = 0
    for explanation, state in zip(explanations, states, strict=True):
        found = verdicts(explanation, state)
        true.update(claim.kind for claim, verdict in found if verdict == "true")
        false.update(claim.kind for claim, verdict in found if verdict == "false")
        uncheckable += sum(verdict == "uncheckable" for _, verdict in found)
        there = facts_of(state)
        right = there & {claim.kind for claim, verdict in found if verdict == "true"}
        facts.update(there)
        recalled.update(right)
        counted = {kind for kind in there if _counts(kind, state)}
        counted_facts += len(counted)
        counted_recalled += len(counted & right)
    num_true, num_false = true.total(), false.total()
    return ClaimScores(
        precision=num_true / max(1, num_true + num_false),
        recall=counted_recalled / max(1, counted_facts),
        checked=num_true + num_false,
        true=num_true,
        false=num_false,
        uncheckable=uncheckable,
        facts=counted_facts,
        explanations=len(explanations),
        per_kind={
            kind: _kind_score(true[kind], false[kind], recalled[kind], facts[kind])
            for kind in KINDS
            if true[kind] + false[kind] + facts[kind]
        },
    )


def _counts(kind: str, state: State) -> bool:
    unsaid = kind == "language" and state.facts.get(kind) == "english"
    return kind not in CONTROL_KINDS and not unsaid


def _kind_score(true: int, false: int, recalled: int, facts: int) -> KindScore:
    claims = true + false
    return KindScore(
        precision=true / claims if claims else None,
        recall=recalled / facts if facts else None,
        claims=claims,
        facts=facts,
    )
