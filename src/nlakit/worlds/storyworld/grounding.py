"""Labels of the storyworld without the claims that no activation carries, written again.

The teacher knows the state, so it can word a label that claims some kinds of fact and no others.
The judge is `claims.grounding`'s.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from nlakit.claims.grounding import ClaimJudge, JudgedClaim
from nlakit.data.labels import LABEL_SCHEMA, write_label_set
from nlakit.data.shards import Manifest
from nlakit.storyworld.document import State
from nlakit.storyworld.teacher import Label, Wish, describe

TAIL_WORDS = (1,)
"""How many of the last words are quoted. Two are one claim, false when either is."""


@dataclass(frozen=True)
class LeastProbability:
    """How likely the judge must find a claim for it to stay.

    Attributes:
        kinds: of some kinds, in place of `others`.
    """

    others: float
    kinds: Mapping[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> float:
        """The bound of a kind."""
        return self.kinds.get(kind, self.others)

    def __str__(self) -> str:
        own = ", ".join(f"{kind} {least:g}" for kind, least in sorted(self.kinds.items()))
        return f"{self.others:g} ({own})" if own else f"{self.others:g}"


@dataclass(frozen=True)
class Grounded:
    """A label without what the judge could not read, and what was dropped."""

    label: Label
    dropped: tuple[str, ...]


def ground(
    judge: ClaimJudge,
    vectors_ND: Float[Tensor, "N D"],
    states: Sequence[State],
    least: LeastProbability,
    seed: int,
) -> list[Grounded]:
    """Write a label for each state, judge its claims, and write it again without the unread ones.

    Each state is worded twice, the second time paraphrased where possible, and a claim is judged by
    its mean: a judge that likes one wording better is not one that doubts the claim.
    """
    first = [_full(state, seed, row) for row, state in enumerate(states)]
    second = [_full(state, seed, row, avoid=first[row].text) for row, state in enumerate(states)]
    judged = [judge.judge(vectors_ND, [each.text for each in labels]) for labels in (first, second)]
    return [
        _without_unread(state, _rng(seed, row), (*judged[0][row], *judged[1][row]), least)
        for row, state in enumerate(states)
    ]


def _without_unread(
    state: State, rng: random.Random, judged: Sequence[JudgedClaim], least: LeastProbability
) -> Grounded:
    found: dict[str, list[float]] = {}
    for each in judged:
        found.setdefault(each.claim.kind, []).append(each.probability)
    kept = {kind for kind, each in found.items() if sum(each) / len(each) >= least.of(kind)}
    label = describe(state, rng, Wish(kept, TAIL_WORDS))
    return Grounded(label, tuple(sorted(set(found) - kept)))


def full_labels(states: Sequence[State], seed: int) -> list[str]:
    """What the teacher says of each state when nothing is left out, for the judge to learn."""
    return [_full(state, seed, row).text for row, state in enumerate(states)]


def _full(state: State, seed: int, row: int, avoid: str = "") -> Label:
    wish = Wish(tail_words=TAIL_WORDS, avoid=avoid.lower())
    return describe(state, _rng(seed, row), wish)


def _rng(seed: int, row: int) -> random.Random:
    return random.Random(f"grounding/{seed}/{row}")


def write_grounded(
    directory: Path, grounded: Sequence[Grounded], manifest: Manifest, least: LeastProbability
) -> None:
    """Write a label set that `load_pairs` reads, of the rows of `manifest`."""
    rows = [
        {
            "row": row,
            "key": f"grounded/{row}",
            "explanation": each.label.text,
            "refusal": None,
            "claims": [{"kind": kind, "value": value} for kind, value in each.label.claims],
        }
        for row, each in enumerate(grounded)
    ]
    teacher = f"storyworld, claims of probability {least} and more"
    write_label_set(directory, pa.Table.from_pylist(rows, LABEL_SCHEMA), teacher, manifest)
