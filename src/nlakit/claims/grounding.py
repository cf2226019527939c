"""The judge of grounding: how likely each claim of an explanation is, given the vector.

An AV trained on labels is a calibrated reader of its own claims: the probability that it gives to a
claim's words says whether the vector holds the claim. So an AV that never saw a label can judge it,
and what could not have been read is left out of what another AV learns from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claim import Claim
from nlakit.config import FrozenModel
from nlakit.data.extraction import Progress
from nlakit.models.precision import Precision, bring_to
from nlakit.models.sharding import in_step
from nlakit.models.verbalizer import Verbalizer

from .calibration import auroc
from .probability import claim_tokens
from .system import ClaimSystem, State

MICRO_BATCH = 64
SHUFFLES = 2
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim with the probability that the judge would have made it, in these words or others.

    Above 1 where the judge prefers these words to the other ones.
    """

    claim: Claim
    probability: float


@dataclass(frozen=True)
class ClaimJudge:
    """A frozen AV that reads how likely each claim of an explanation is, given the vector.

    Attributes:
        system: finds the claims.
        micro_batch: explanations in memory at once; None: `MICRO_BATCH`.
    """

    verbalizer: Verbalizer
    system: ClaimSystem
    precision: Precision = "auto"
    micro_batch: int | None = None

    @torch.no_grad()
    def judge(
        self,
        vectors_ND: Float[Tensor, "N D"],
        explanations: Sequence[str],
        progress: Progress | None = None,
    ) -> list[list[JudgedClaim]]:
        """The claims of each explanation, in order, each with its probability.

        Args:
            progress: called with (explanations done, of how many).
        """
        bring_to(self.verbalizer.model, self.precision)
        responses = [self.verbalizer.encode_response(text) for text in explanations]
        judged: list[list[JudgedClaim]] = [[] for _ in explanations]
        order = sorted(range(len(responses)), key=lambda row: len(responses[row]))
        size, done = self.micro_batch or MICRO_BATCH, 0
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for rows, is_own in in_step(self.verbalizer.model, batches, []):
            if not is_own:
                self._judge_nothing()
                continue
            logprobs, _ = self.verbalizer.logprobs(
                vectors_ND[rows], [responses[row] for row in rows]
            )
            for row, logprobs_T in zip(rows, logprobs.float().cpu(), strict=True):
                judged[row] = self._claims(explanations[row], logprobs_T.tolist())
            done += len(rows)
            if progress is not None:
                progress(done, len(order))
        return judged

    def _judge_nothing(self) -> None:
        """Take part while another process judges (`models.sharding`)."""
        vector_1D = torch.ones(1, self.verbalizer.meta.d_model)
        self.verbalizer.logprobs(vector_1D, [self.verbalizer.encode_response("")])

    def _claims(self, explanation: str, logprobs: list[float]) -> list[JudgedClaim]:
        offsets = self.verbalizer.response_offsets(explanation)
        return [
            JudgedClaim(each.claim, math.exp(each.logprob(logprobs)))
            for each in claim_tokens(explanation, offsets, self.system)
        ]


# -- what the judge is worth -----------------------------------------------------------------------
class CurvePoint(FrozenModel):
    """Claims of the judge's own explanations whose score is at least `threshold`."""

    threshold: float
    precision: float | None
    kept: float
    """Share of the true claims that stay."""


class JudgeCurve(FrozenModel):
    """How well a score tells true claims from false ones, over all kinds."""

    score: str
    claims: int
    auroc: float | None
    """None where all claims are true, or all false."""
    points: tuple[CurvePoint, ...]


def judge_curves(
    judge: ClaimJudge,
    vectors_ND: Float[Tensor, "N D"],
    explanations: Sequence[str],
    states: Sequence[State],
    seed: int,
) -> tuple[JudgeCurve, ...]:
    """Curves of the probability, and of its gain over shuffled vectors, against the truth.

    Raises:
        InputError: the judge's claims cannot be checked.
    """
    check = judge.system.known().check
    seeds = torch.Generator().manual_seed(seed)
    real = judge.judge(vectors_ND, explanations)
    shuffled = [
        judge.judge(vectors_ND[torch.randperm(len(vectors_ND), generator=seeds)], explanations)
        for _ in range(SHUFFLES)
    ]
    truth, probability, gain = [], [], []
    for row, judged in enumerate(real):
        for place, each in enumerate(judged):
            verdict = check(each.claim, states[row])
            if verdict == "uncheckable":
                continue
            without = sum(found[row][place].probability for found in shuffled) / SHUFFLES
            truth.append(verdict == "true")
            probability.append(each.probability)
            gain.append(gain_over(each.probability, without))
    return tuple(
        JudgeCurve(
            score=name,
            claims=len(truth),
            auroc=auroc(np.array(scores), np.array(truth, dtype=bool)),
            points=tuple(_point(truth, scores, threshold) for threshold in THRESHOLDS),
        )
        for name, scores in (("probability", probability), ("gain over shuffled", gain))
    )


def gain_over(probability: float, without: float) -> float:
    """What the vector adds to a claim: 0.5 is nothing, 1 all of it.

    Args:
        without: its probability under the vectors of other documents.
    """
    return probability / (probability + without + 1e-9)


def _point(truth: Sequence[bool], scores: Sequence[float], threshold: float) -> CurvePoint:
    passed = [right for right, score in zip(truth, scores, strict=True) if score >= threshold]
    return CurvePoint(
        threshold=threshold,
        precision=sum(passed) / len(passed) if passed else None,
        kept=sum(passed) / max(1, sum(truth)),
    )
