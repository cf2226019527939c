"""Whether explanations say the truth, and how much of it.

One explanation and one state a row; the number of documents is that of the rows given. What a claim
is, and whether it is true, the claim system says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from nlakit.claim import Claim, Fact, Verdict
from nlakit.claims.system import ClaimSystem, State
from nlakit.config import FrozenModel

from .probes import ProbeResult

CHECKED = ("true", "false")
READABLE = 0.8
"""A probe as sure as this, and right, says that the activation holds the fact."""


class KindScore(FrozenModel):
    """One kind of fact: precision of `claims` checked claims, recall of `facts` facts."""

    precision: float | None
    """None where no claim of the kind was checked."""
    recall: float | None
    """None where the kind was true of no row."""
    claims: int
    facts: int
    abstained: float | None = None
    """Share of the facts of which nothing was claimed, right or wrong; None without facts."""
    readable_recall: float | None = None
    """Recall of the facts that the MLP probe reads; None where it reads none, or there is none."""
    readable: int = 0
    """How many facts that are."""


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
    abstained: float | None = None
    """Share of `facts` of whose kind nothing was claimed."""
    readable_recall: float | None = None
    """Recall over those of `facts` that the MLP probe reads with a held-out confidence of
    `READABLE` or more and gets right. None: no probes, or none that reads."""
    readable_facts: int = 0
    reading_efficiency: dict[str, float] = {}
    """Kind to `precision / accuracy of the MLP probe`. Silence does not count against it, so each
    kind's `abstained` belongs beside it."""
    ece: float | None = None
    """Expected calibration error of the claims' confidences, under a calibrator fitted on other
    documents. None: the engine gives no probabilities, or no claim could be checked."""


def verdicts(explanation: str, state: State, system: ClaimSystem) -> list[tuple[Claim, Verdict]]:
    """The claims of an explanation, each with its verdict. Raises as `ClaimSystem.known`."""
    check = system.known().check
    return [(claim, check(claim, state)) for claim in system.find(explanation)]


class _Told(NamedTuple):
    """A fact of one row, and what became of it."""

    kind: str
    counts: bool
    """Whether it enters the overall figures."""
    claimed: bool
    recalled: bool
    readable: bool


def score_claims(
    explanations: Sequence[str],
    states: Sequence[State],
    system: ClaimSystem,
    probes: Mapping[str, ProbeResult] | None = None,
) -> ClaimScores:
    """Precision and recall over rows, overall and per kind.

    A fact is recalled when some claim of its kind is true; a second, false claim of that kind costs
    precision, not recall.

    Args:
        system: finds and checks the claims.
        probes: what probes read at these rows; without them nothing is known to be readable.

    Raises:
        InputError: as `ClaimSystem.known`.
    """
    checked = [verdicts(*row, system) for row in zip(explanations, states, strict=True)]
    known = facts_of(states, system)
    tally: Counter[tuple[str, Verdict]] = Counter(
        (claim.kind, verdict) for found in checked for claim, verdict in found
    )
    facts = list(_told(checked, known, readable_facts(probes or {}, known), system))
    kinds = {each.kind for each in facts} | {kind for kind, verdict in tally if verdict in CHECKED}
    per_kind = {
        kind: _kind_score(*_checked(tally, kind), [each for each in facts if each.kind == kind])
        for kind in system.kinds
        if kind in kinds
    }
    counted = [each for each in facts if each.counts]
    num_true = sum(tally[kind, "true"] for kind in system.kinds)
    num_false = sum(tally[kind, "false"] for kind in system.kinds)
    return ClaimScores(
        precision=num_true / max(1, num_true + num_false),
        recall=_share([each.recalled for each in counted]) or 0.0,
        checked=num_true + num_false,
        true=num_true,
        false=num_false,
        uncheckable=sum(tally[kind, "uncheckable"] for kind in system.kinds),
        facts=len(counted),
        explanations=len(explanations),
        per_kind=per_kind,
        abstained=_share([not each.claimed for each in counted]),
        readable_recall=_share([each.recalled for each in counted if each.readable]),
        readable_facts=sum(each.readable for each in counted),
        reading_efficiency=_efficiency(per_kind, probes or {}),
    )


class RowTally(NamedTuple):
    """What one explanation adds to each figure of `ClaimScores`: counts, whose sums divide."""

    true: int
    checked: int
    recalled: int
    facts: int
    readable_recalled: int
    readable: int


def tally_rows(
    explanations: Sequence[str],
    states: Sequence[State],
    system: ClaimSystem,
    probes: Mapping[str, ProbeResult] | None = None,
) -> list[RowTally]:
    """The counts behind `score_claims`, a row each: for intervals, and for two pairs' difference.

    Args:
        system, probes: as there.
    """
    known, tallies = facts_of(states, system), list[RowTally]()
    readable = readable_facts(probes or {}, known)
    for row, (explanation, state) in enumerate(zip(explanations, states, strict=True)):
        found = verdicts(explanation, state, system)
        right = {claim.kind for claim, verdict in found if verdict == "true"}
        facts = {kind for kind, fact in known[row].items() if _counts(kind, fact, system)}
        read = {kind for kind in facts if (row, kind) in readable}
        tallies.append(
            RowTally(
                true=sum(verdict == "true" for _, verdict in found),
                checked=sum(verdict in CHECKED for _, verdict in found),
                recalled=len(facts & right),
                facts=len(facts),
                readable_recalled=len(read & right),
                readable=len(read),
            )
        )
    return tallies


def facts_of(states: Sequence[State], system: ClaimSystem) -> list[Mapping[str, Fact]]:
    """What is true of each state, by kind. Raises as `ClaimSystem.known`."""
    facts = system.known().facts
    return [facts(state) for state in states]


def readable_facts(
    probes: Mapping[str, ProbeResult], known: Sequence[Mapping[str, Fact]]
) -> set[tuple[int, str]]:
    """The (row, kind) pairs whose value the MLP probe names with a confidence of `READABLE`."""
    found = set()
    for kind, result in probes.items():
        confidence_R, best_R = result.mlp_RC.max(-1)
        read = zip(result.rows, confidence_R.tolist(), best_R.tolist(), strict=True)
        for row, confidence, best in read:
            if confidence >= READABLE and result.classes[best] in known[row][kind].values:
                found.add((row, kind))
    return found


def _told(
    checked: Sequence[list[tuple[Claim, Verdict]]],
    known: Sequence[Mapping[str, Fact]],
    readable: set[tuple[int, str]],
    system: ClaimSystem,
) -> Iterator[_Told]:
    for row, (found, facts) in enumerate(zip(checked, known, strict=True)):
        claimed = {claim.kind for claim, _ in found}
        right = {claim.kind for claim, verdict in found if verdict == "true"}
        for kind, fact in facts.items():
            yield _Told(
                kind=kind,
                counts=_counts(kind, fact, system),
                claimed=kind in claimed,
                recalled=kind in right,
                readable=(row, kind) in readable,
            )


def _checked(tally: Counter[tuple[str, Verdict]], kind: str) -> tuple[int, int]:
    return tally[kind, "true"], tally[kind, "false"]


def _efficiency(
    per_kind: Mapping[str, KindScore], probes: Mapping[str, ProbeResult]
) -> dict[str, float]:
    """Kinds that were claimed, and that a probe reads at all."""
    return {
        kind: score.precision / probes[kind].score.mlp
        for kind, score in per_kind.items()
        if score.precision is not None and kind in probes and probes[kind].score.mlp > 0
    }


def _counts(kind: str, fact: Fact, system: ClaimSystem) -> bool:
    return fact.counts and kind not in system.control_kinds


def _kind_score(true: int, false: int, facts: list[_Told]) -> KindScore:
    claims = true + false
    return KindScore(
        precision=true / claims if claims else None,
        recall=_share([each.recalled for each in facts]),
        claims=claims,
        facts=len(facts),
        abstained=_share([not each.claimed for each in facts]),
        readable_recall=_share([each.recalled for each in facts if each.readable]),
        readable=sum(each.readable for each in facts),
    )


def _share(held: Sequence[bool]) -> float | None:
    return sum(held) / len(held) if held else None
