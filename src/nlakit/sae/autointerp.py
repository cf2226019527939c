"""Automatic interpretation: explanations of latents, scored by detection and by fuzzing (Paulo et
al. 2024, 2410.13928).

An explanation says when a latent is active. A judge who is shown it sees contexts that the
explainer has not seen. Detection: in which of them is the latent active? Fuzzing: where tokens are
marked, are they those at which it is active? The score of each is balanced accuracy, 0.5 by chance.
Explainer and judge may be a chat model (`TeacherJudge`), or, where facts are known, nobody at all:
the explanation is then a fact, and `FactJudge` looks up where it holds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch

from nlakit.config import FrozenModel
from nlakit.data.labels import Place, Teacher, ask
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, ratio_interval

from .dashboard import Activity
from .texts import Passage

CONTEXT = 32
"""Tokens that are shown at once; delphi's number, like the next."""
QUANTILES = 10
MARK_ABOVE = 0.3
"""Tokens are marked from this share of the latent's largest activation on."""
NUM_SHOWN = 20
"""Strongest contexts that an explainer sees."""
PER_QUESTION = 5
OPEN, CLOSE = "<<", ">>"

Verdict = bool | None
"""None: the judge gave no answer."""


class Context(NamedTuple):
    """Consecutive tokens of a passage that are read.

    Attributes:
        first: the first of them, by its number among the passage's read positions.
        values: activation of the latent at each.
    """

    passage: Passage
    first: int
    values: tuple[float, ...]

    @property
    def tokens(self) -> list[str]:
        """Their characters."""
        positions = self.passage.positions[self.first : self.first + len(self.values)]
        return [self.passage.encoded.tokens[position] for position in positions]


class Marked(NamedTuple):
    """A context with marks, by the number of the token in it."""

    context: Context
    marks: frozenset[int]


class Judge(Protocol):
    """Says of contexts whether an explanation fits."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    def active(self, explanation: str, contexts: Sequence[Context]) -> list[Verdict]:
        """Whether a latent of this explanation is active in each."""
        ...

    def marks_fit(self, explanation: str, marked: Sequence[Marked]) -> list[Verdict]:
        """Whether it is active at the marked tokens of each."""
        ...


class LatentScore(FrozenModel):
    """One latent."""

    latent: int
    explanation: str
    detection: float
    fuzzing: float
    foreign_detection: float
    """With the explanation of another latent."""
    foreign_fuzzing: float
    unanswered: int


class AutointerpReport(FrozenModel):
    """Latents of one autoencoder. Intervals are 95 %, by latent."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_autointerp"] = "sae_autointerp"
    sae: str
    explainer: str
    judge: str
    corpus: str
    alive: int
    """Latents that are active in enough contexts, and silent in enough."""
    explained: int
    """Those of them that have an explanation."""
    detection: float
    detection_interval: Interval
    fuzzing: float
    fuzzing_interval: Interval
    foreign_detection: float
    foreign_detection_interval: Interval
    foreign_fuzzing: float
    foreign_fuzzing_interval: Interval
    latents: tuple[LatentScore, ...]


@dataclass(frozen=True)
class Examples:
    """Contexts of one latent to judge an explanation by."""

    active: Sequence[Context]
    silent: Sequence[Context]
    right: Sequence[Marked]
    wrong: Sequence[Marked]


def score_latents(
    activity: Activity,
    explanations: Mapping[int, str],
    judge: Judge,
    *,
    sae: str,
    explainer: str,
    corpus: str,
    per_class: int = 20,
    seed: int = 0,
) -> AutointerpReport:
    """Score explanations on passages that they were not made from.

    Args:
        per_class: contexts in which a latent is active, and as many in which it is silent.

    Raises:
        InputError: fewer than two explained latents are active, and silent, in enough contexts.
    """
    contexts = _Contexts(activity)
    most = len(contexts.places) - per_class
    latents = range(len(activity.starts) - 1)
    alive = [i for i in latents if per_class <= contexts.count(i) <= most]
    explained = [latent for latent in alive if latent in explanations]
    if len(explained) < 2:
        raise InputError(
            f"{len(explained)} explained latents are active in {per_class} contexts of "
            f"{CONTEXT} tokens and silent in as many; two are needed. Read more documents."
        )
    scores = []
    for latent, other in zip(explained, explained[1:] + explained[:1], strict=True):
        examples = contexts.examples(latent, per_class, random.Random(f"{seed}/{latent}"))
        right, wrong = (_score(judge, explanations[i], examples) for i in (latent, other))
        scores.append(
            LatentScore(
                latent=latent,
                explanation=explanations[latent],
                detection=right[0],
                fuzzing=right[1],
                foreign_detection=wrong[0],
                foreign_fuzzing=wrong[1],
                unanswered=right[2],
            )
        )
    names = ("detection", "fuzzing", "foreign_detection", "foreign_fuzzing")
    own, fuzzed, foreign, foreign_fuzzed = (
        _mean([getattr(each, name) for each in scores]) for name in names
    )
    return AutointerpReport(
        sae=sae,
        explainer=explainer,
        judge=judge.name,
        corpus=corpus,
        alive=len(alive),
        explained=len(explained),
        detection=own[0],
        detection_interval=own[1],
        fuzzing=fuzzed[0],
        fuzzing_interval=fuzzed[1],
        foreign_detection=foreign[0],
        foreign_detection_interval=foreign[1],
        foreign_fuzzing=foreign_fuzzed[0],
        foreign_fuzzing_interval=foreign_fuzzed[1],
        latents=tuple(scores),
    )


def _mean(values: Sequence[float]) -> tuple[float, Interval]:
    found = torch.tensor(values, dtype=torch.float64)
    latents = [str(number) for number in range(len(found))]
    return found.mean().item(), ratio_interval(found, torch.ones_like(found), latents)


def _score(judge: Judge, explanation: str, examples: Examples) -> tuple[float, float, int]:
    """Detection, fuzzing, and questions without an answer."""
    contexts = [*examples.active, *examples.silent]
    marked = [*examples.right, *examples.wrong]
    said = judge.active(explanation, contexts)
    fits = judge.marks_fit(explanation, marked)
    detection = balanced_accuracy(said, len(examples.active))
    fuzzing = balanced_accuracy(fits, len(examples.right))
    return detection, fuzzing, said.count(None) + fits.count(None)


def balanced_accuracy(verdicts: Sequence[Verdict], num_true: int) -> float:
    """Mean of the shares that are right of the first `num_true`, which are true, and of the others,
    which are not; no answer is a wrong one."""
    true = sum(verdict is True for verdict in verdicts[:num_true]) / num_true
    false = sum(verdict is False for verdict in verdicts[num_true:])
    return (true + false / (len(verdicts) - num_true)) / 2


# -- contexts --------------------------------------------------------------------------------------
class _Contexts:
    """The read tokens of some passages, in contexts."""

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        places = [
            (number, first)
            for number, passage in enumerate(activity.passages)
            for first in range(0, len(passage.positions), CONTEXT)
        ]
        self.places = places
        self.starts = np.array([activity.first_rows[number] + first for number, first in places])

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the contexts that read tokens are in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def count(self, latent: int) -> int:
        """Contexts in which a latent is active."""
        return len(np.unique(self.of_rows(self.activity.of(latent)[0])))

    def context(self, latent: int, number: int) -> Context:
        """One context with a latent's activations."""
        rows, values = self.activity.of(latent)
        passage, first = self.places[number]
        length = min(CONTEXT, len(self.activity.passages[passage].positions) - first)
        inside = (rows >= self.starts[number]) & (rows < self.starts[number] + length)
        dense = np.zeros(length)
        dense[rows[inside] - self.starts[number]] = values[inside]
        return Context(self.activity.passages[passage], first, tuple(dense.tolist()))

    def by_strength(self, latent: int) -> list[int]:
        """Contexts in which a latent is active, the strongest first."""
        rows, values = self.activity.of(latent)
        order = np.argsort(-values, kind="stable")
        numbers, first = np.unique(self.of_rows(rows[order]), return_index=True)
        return numbers[np.argsort(first)].tolist()

    def examples(self, latent: int, per_class: int, draws: random.Random) -> Examples:
        """Contexts of every tenth of the range of ranks, and silent ones."""
        strongest = self.by_strength(latent)
        chosen = _from_quantiles(strongest, per_class, draws)
        others = sorted(set(range(len(self.places))) - set(strongest))
        silent = [self.context(latent, i) for i in draws.sample(others, per_class)]
        active = [self.context(latent, i) for i in chosen]
        most = float(self.activity.of(latent)[1].max())
        right = [Marked(each, _marks(each, most)) for each in active]
        num_marks = max(1, round(sum(len(each.marks) for each in right) / len(right)))
        wrong = [Marked(each, _random_marks(each, num_marks, draws)) for each in silent]
        return Examples(active, silent, right, wrong)


def _from_quantiles(ordered: Sequence[int], count: int, draws: random.Random) -> list[int]:
    """As many of each quantile of an ordered list as of every other, one more or less."""
    edges = [round(part * len(ordered) / QUANTILES) for part in range(QUANTILES + 1)]
    parts = [list(ordered[low:high]) for low, high in zip(edges, edges[1:], strict=False)]
    for part in parts:
        draws.shuffle(part)
    # The first of each quantile, then the second of each: the head of that has equal shares.
    by_turn = [
        part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)
    ]
    return by_turn[:count]


def _marks(context: Context, most: float) -> frozenset[int]:
    """Tokens near the latent's largest activation; of a weak context, its own strongest."""
    threshold = min(MARK_ABOVE * most, max(context.values))
    return frozenset(i for i, value in enumerate(context.values) if value >= threshold)


def _random_marks(context: Context, count: int, draws: random.Random) -> frozenset[int]:
    size = len(context.values)
    return frozenset(draws.sample(range(size), min(count, size)))


def strongest_contexts(activity: Activity, latent: int, count: int = NUM_SHOWN) -> list[Marked]:
    """What an explainer sees of a latent: where it is strongest, with marks."""
    contexts = _Contexts(activity)
    rows_values = activity.of(latent)[1]
    if not len(rows_values):
        return []
    most = float(rows_values.max())
    found = [contexts.context(latent, i) for i in contexts.by_strength(latent)[:count]]
    return [Marked(each, _marks(each, most)) for each in found]


# -- who judges ------------------------------------------------------------------------------------
class FactJudge:
    """Knows where facts hold. An explanation is a fact, as `kind=value`, or several with ` or `."""

    name = "known facts"

    def active(self, explanation: str, contexts: Sequence[Context]) -> list[Verdict]:
        """Whether the fact holds at any token."""
        return [any(self._held(explanation, each)) for each in contexts]

    def marks_fit(self, explanation: str, marked: Sequence[Marked]) -> list[Verdict]:
        """Whether the fact holds at half of the marked tokens or more."""
        verdicts: list[Verdict] = []
        for context, marks in marked:
            held = self._held(explanation, context)
            verdicts.append(2 * sum(held[mark] for mark in marks) >= len(marks))
        return verdicts

    def _held(self, explanation: str, context: Context) -> list[bool]:
        facts = context.passage.facts
        if facts is None:
            raise InputError("Nobody knows what is true of these documents. Name a teacher.")
        asked = set(explanation.split(" or "))
        inside = facts[context.first : context.first + len(context.values)]
        return [bool(asked & held) for held in inside]


class TeacherJudge:
    """A chat model, asked for detection by one teacher and for fuzzing by another.

    The two differ in their task (`nlakit.teachers.latents`) and share the model.
    """

    def __init__(self, detecting: Teacher, fuzzing: Teacher) -> None:
        self.detecting, self.fuzzing = detecting, fuzzing

    @property
    def name(self) -> str:
        """The model's."""
        return self.detecting.name

    def active(self, explanation: str, contexts: Sequence[Context]) -> list[Verdict]:
        """See `Judge`."""
        return _asked(self.detecting, explanation, ["".join(each.tokens) for each in contexts])

    def marks_fit(self, explanation: str, marked: Sequence[Marked]) -> list[Verdict]:
        """See `Judge`."""
        return _asked(self.fuzzing, explanation, [with_marks(each) for each in marked])


def with_marks(marked: Marked) -> str:
    """The text of a context, runs of marked tokens in double angle brackets."""
    text, inside = "", False
    for number, token in enumerate(marked.context.tokens):
        if (number in marked.marks) != inside:
            inside = not inside
            text += OPEN if inside else CLOSE
        text += token
    return text + (CLOSE if inside else "")


def _asked(teacher: Teacher, explanation: str, texts: Sequence[str]) -> list[Verdict]:
    # Shuffled by a fixed seed: else the first questions would all be yes and the others no.
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    groups = [order[i : i + PER_QUESTION] for i in range(0, len(order), PER_QUESTION)]
    questions = [_question(explanation, [texts[i] for i in group]) for group in groups]
    answers = ask(teacher, [Place(text, 0, 0, len(text)) for text in questions])
    verdicts: list[Verdict] = [None] * len(texts)
    for group, answer in zip(groups, answers, strict=True):
        for i, verdict in zip(group, read_verdicts(answer.explanation, len(group)), strict=True):
            verdicts[i] = verdict
    return verdicts


def _question(explanation: str, texts: Sequence[str]) -> str:
    shown = "\n".join(f"Example {number}: {text}" for number, text in enumerate(texts, start=1))
    return f"Explanation: {explanation}\n\n{shown}"


def read_verdicts(answer: str | None, count: int) -> list[Verdict]:
    """The ones and zeros of an answer; no verdict where there are more or fewer than examples."""
    found = [digit for digit in answer or "" if digit in "01"]
    if len(found) != count:
        return [None] * count
    return [digit == "1" for digit in found]


def explain_latents(activity: Activity, latents: Sequence[int], teacher: Teacher) -> dict[int, str]:
    """What a teacher says of latents from where they are strongest; without those it refuses."""
    shown = {latent: strongest_contexts(activity, latent) for latent in latents}
    texts = {
        latent: "\n".join(
            f"Example {number}: {with_marks(each)}" for number, each in enumerate(marked, start=1)
        )
        for latent, marked in shown.items()
        if marked
    }
    labels = ask(teacher, [Place(text, 0, 0, len(text)) for text in texts.values()])
    return {
        latent: label.explanation
        for latent, label in zip(texts, labels, strict=True)
        if label.explanation is not None
    }
