"""Steering by an edited word: does the target come to expect what its explanation is made to say?

A trial is a claim of an explanation whose words are replaced by those that another document's
explanation claims of the same kind. The direction that this gives the reconstruction is added at
the site, and the probability of the new words is looked up among the target's next tokens. Whatever
is added makes unlikely words likelier, so the rise counts beyond that of another trial's words;
a random direction of the same length is the floor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claim import Claim
from nlakit.core.scale import to_norm
from nlakit.errors import InputError
from nlakit.models.patch import next_logprobs
from nlakit.models.target import Target
from nlakit.pair.steer import edit_direction

from .rows import ReadSample
from .section import Figure, Line, Section, share

ALPHAS = (0.5, 1.0)
LEAST_TRIALS = 8
"""Of a kind, for a line of its own."""
EDIT, RANDOM = "edit", "random direction"


@dataclass(frozen=True)
class Trial:
    """One edit.

    Attributes:
        row: of the readings.
        wanted: ids of the tokens that the new words begin with, with and without a blank.
    """

    row: int
    kind: str
    wanted: tuple[int, ...]
    original: str
    edited: str


def edited_words(sample: ReadSample, alphas: Sequence[float] = ALPHAS) -> Section:
    """How far an edit moves the target's next tokens to the words put in, by kind of claim.

    Args:
        alphas: strengths, as shares of the activation's norm.

    Raises:
        InputError: too few explanations claim anything that could be edited.
    """
    trials = make_trials(sample)
    kinds = [kind for kind in sample.claims.kinds if _number(trials, kind) >= LEAST_TRIALS]
    if not kinds:
        raise InputError(
            f"{len(trials)} claims of {len(sample.doc_ids)} explanations can be edited; an "
            f"evaluation needs {LEAST_TRIALS} of a kind. Give more --documents."
        )
    lines = []
    for kind in kinds:
        lines += _lines(sample, [each for each in trials if each.kind == kind], kind, alphas)
    return sample.section(
        "steer",
        "does an edited word become likely?",
        "gain: rise of the log-probability of the new words' first token at the next token, less "
        "that of another trial's words, in nats; raised: share of the trials in which it is above "
        "0. KL: of the next tokens of another document, to whose activation the same direction was "
        "added, in nats. alpha: share of the "
        "activation's norm that is added. shift: length of the edit's direction between unit "
        "vectors; near 0 the AR makes nothing of the words.",
        lines,
        suspicions=_suspicions(lines),
    )


def make_trials(sample: ReadSample) -> list[Trial]:
    """One edit a kind and row: of the row's first claim of the kind, to what another document's
    explanation claims of it."""
    rng, target = random.Random(sample.seed), sample.pair.target
    found = [sample.claims.find(text) for text in sample.reading.texts]
    trials = []
    for row, claims in enumerate(found):
        for claim in {each.kind: each for each in reversed(claims)}.values():
            text = sample.reading.texts[row]
            others = _others(sample, found, row, claim.kind)
            fresh = [each for each in others if each.lower() not in text.lower()]
            if not fresh:
                continue
            words = rng.choice(fresh)
            edited = text[: claim.start] + words + text[claim.end :]
            trials.append(Trial(row, claim.kind, first_tokens(target, words), text, edited))
    return trials


def _others(sample: ReadSample, found: Sequence[Sequence[Claim]], row: int, kind: str) -> list[str]:
    """The words of claims of a kind in explanations of other documents, each once."""
    own = sample.doc_ids[row]
    words = [
        sample.reading.texts[other][claim.start : claim.end]
        for other, claims in enumerate(found)
        if sample.doc_ids[other] != own
        for claim in claims
        if claim.kind == kind
    ]
    return sorted(set(words))


def first_tokens(target: Target, words: str) -> tuple[int, ...]:
    """Ids of the tokens that some words may begin with: after a blank, and without one."""
    tokenizer = target.tokenizer
    ids = [tokenizer.encode(lead + words, add_special_tokens=False) for lead in (" ", "")]
    return tuple(sorted({each[0] for each in ids if each}))


def _number(trials: Sequence[Trial], kind: str) -> int:
    return sum(each.kind == kind for each in trials)


def _lines(
    sample: ReadSample, trials: Sequence[Trial], kind: str, alphas: Sequence[float]
) -> list[Line]:
    edits_ND = edit_direction(
        sample.pair.engine, [each.original for each in trials], [each.edited for each in trials]
    )
    noise_ND = torch.randn(edits_ND.shape, generator=torch.Generator().manual_seed(sample.seed))
    directions = {EDIT: edits_ND, RANDOM: noise_ND}
    effects = _Effects(sample, trials)
    lines = []
    for name, directions_ND in directions.items():
        for alpha in alphas:
            figures = effects.of(directions_ND, alpha)
            if name == EDIT:
                figures["shift"] = Figure(value=edits_ND.norm(dim=-1).mean().item())
            full = f"{kind}: {name}, alpha {alpha:g}"
            lines.append(Line(name=full, figures=figures, floor=name != EDIT))
    return lines


class _Effects:
    """Next-token distributions of the trials' rows, untouched and steered."""

    def __init__(self, sample: ReadSample, trials: Sequence[Trial]) -> None:
        self.sample, self.trials = sample, trials
        self.rows = [each.row for each in trials]
        self.documents = [sample.doc_ids[row] for row in self.rows]
        self.unrelated = [sample.other_documents()[row] for row in self.rows]
        self.clean_NV = self._logprobs(self.rows, None, 0.0)
        self.clean_other_NV = self._logprobs(self.unrelated, None, 0.0)

    def of(self, directions_ND: Float[Tensor, "N D"], alpha: float) -> dict[str, Figure]:
        steered_NV = self._logprobs(self.rows, directions_ND, alpha)
        wanted = [list(each.wanted) for each in self.trials]
        rises = [self._rise(steered_NV, row, ids) for row, ids in enumerate(wanted)]
        others = [self._rise(steered_NV, row, ids) for row, ids in enumerate(self._foreign(wanted))]
        gains = [rise - other for rise, other in zip(rises, others, strict=True)]
        other_NV = self._logprobs(self.unrelated, directions_ND, alpha)
        clean_NV = self.clean_other_NV
        kl_N = (clean_NV.exp() * (clean_NV - other_NV)).sum(-1)
        return {
            "gain": share(gains, self.documents),
            "raised": share([gain > 0 for gain in gains], self.documents),
            "KL": Figure(value=kl_N.mean().item()),
        }

    def _rise(self, steered_NV: Tensor, row: int, ids: list[int]) -> float:
        """Of the log-probability of any of some tokens, at a trial's next token."""
        before, after = (each_NV[row, ids].logsumexp(0) for each_NV in (self.clean_NV, steered_NV))
        return (after - before).item()

    def _foreign(self, wanted: list[list[int]]) -> list[list[int]]:
        """For each trial the words of the next one that wants others."""
        turned = [wanted[at + 1 :] + wanted[:at] for at in range(len(wanted))]
        return [
            next((each for each in others if each != own), own)
            for own, others in zip(wanted, turned, strict=True)
        ]

    def _logprobs(
        self, rows: Sequence[int], directions_ND: Tensor | None, alpha: float
    ) -> Float[Tensor, "N V"]:
        ids = [self.sample.sample.prompts[row] for row in rows]
        if directions_ND is None:
            return next_logprobs(self.sample.pair.target, ids)
        vectors_ND = self.sample.vectors_ND[list(rows)]
        norm_N1 = vectors_ND.norm(dim=-1, keepdim=True)
        added_ND = alpha * norm_N1 * to_norm(directions_ND, 1.0)
        return next_logprobs(self.sample.pair.target, ids, vectors_ND + added_ND)


def _suspicions(lines: Sequence[Line]) -> list[str]:
    found = []
    for kind in dict.fromkeys(line.name.partition(":")[0] for line in lines):
        own, noise = _best(lines, f"{kind}: {EDIT},"), _best(lines, f"{kind}: {RANDOM},")
        least = max(0.0, noise.value or 0.0)
        if own.interval is None or own.interval.low <= least:
            found.append(
                f"{kind}: an edit raises its word by {own.value or 0.0:.2f} nats at most, which "
                f"cannot be told from {least:.2f}."
            )
    return found


def _best(lines: Sequence[Line], name: str) -> Figure:
    """The greatest gain of the lines whose names begin so."""
    gains = [each.figures["gain"] for each in lines if each.name.startswith(name)]
    return max(gains, key=lambda gain: gain.value or 0.0)
