"""Grounding: a label keeps a claim only where the activation carries it.

Warm-start labels are written from the text, so they name facts that the activation does not hold.
An AV that learns to write them can only guess those, and nothing in the loss or in plain RL ever
minds. But an AV trained on labels is also a calibrated reader of its own claims: the probability
that it gives to a claim's words, given the vector, says whether the vector holds the claim. So an
AV that never saw a label judges each of its claims; what it could not have read is left out; and
the AV learns on from the rest. The judge stays on in RL as part of the reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claim import Claim
from nlakit.claims.probability import STORYWORLD, ClaimFinder, claim_tokens
from nlakit.models.verbalizer import Verbalizer

from .learner import Precision, autocast

MICRO_BATCH = 64
SHUFFLES = 2


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
        micro_batch: explanations in memory at once.
    """

    verbalizer: Verbalizer
    precision: Precision = "auto"
    finder: ClaimFinder = STORYWORLD
    micro_batch: int = MICRO_BATCH

    @torch.no_grad()
    def judge(
        self, vectors_ND: Float[Tensor, "N D"], explanations: Sequence[str]
    ) -> list[list[JudgedClaim]]:
        """The claims of each explanation, in order, each with its probability."""
        responses = [self.verbalizer.encode_response(text) for text in explanations]
        judged: list[list[JudgedClaim]] = [[] for _ in explanations]
        order = sorted(range(len(responses)), key=lambda row: len(responses[row]))
        for start in range(0, len(order), self.micro_batch):
            rows = order[start : start + self.micro_batch]
            with autocast(self.precision, self.verbalizer.model.device):
                logprobs, _ = self.verbalizer.logprobs(
                    vectors_ND[rows], [responses[row] for row in rows]
                )
            for row, logprobs_T in zip(rows, logprobs.float().cpu(), strict=True):
                judged[row] = self._claims(explanations[row], logprobs_T.tolist())
        return judged

    def _claims(self, explanation: str, logprobs: list[float]) -> list[JudgedClaim]:
        offsets = self.verbalizer.response_offsets(explanation)
        return [
            JudgedClaim(each.claim, math.exp(each.logprob(logprobs)))
            for each in claim_tokens(explanation, offsets, self.finder)
        ]


def gain_over(probability: float, without: float) -> float:
    """What the vector adds to a claim: 0.5 is nothing, 1 all of it.

    Args:
        without: its probability under the vectors of other documents.
    """
    return probability / (probability + without + 1e-9)
