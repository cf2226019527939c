"""How likely a verbalizer found each claim of an explanation: read off its tokens here alone.

The choice of a claim is made at the first word that tells it from others, so its extent is longer
than the word by which it is known; and what can be said in several ways is likelier than any of
them. Both are the claim system's to know. The judge of grounding and the confidence of
readings ask here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nlakit.claim import Claim

from .system import ClaimSystem


@dataclass(frozen=True, slots=True)
class ClaimTokens:
    """Where in a response a claim is decided.

    Attributes:
        tokens: places of the response's tokens that hold its extent; never none.
        wordings: ways of saying it, taken to be equally likely.
    """

    claim: Claim
    tokens: tuple[int, ...]
    wordings: int

    def logprob(self, logprobs: Sequence[float]) -> float:
        """Nats: of the claim in these words or its others. Above 0 where these are preferred.

        Args:
            logprobs: of the response's tokens.
        """
        return math.log(self.wordings) + sum(logprobs[token] for token in self.tokens)

    def lowest(self, logprobs: Sequence[float]) -> float:
        """Nats: of the least likely of its tokens."""
        return min(logprobs[token] for token in self.tokens)


def claim_tokens(
    explanation: str, offsets: Sequence[tuple[int, int]], system: ClaimSystem
) -> list[ClaimTokens]:
    """The claims of an explanation, in order, without those of which no token is there.

    Args:
        offsets: per token of the response the characters of the explanation that it wrote,
            [start, end); for a token outside of it, of a tag, any that do not reach into it.
    """
    found = []
    for claim in system.find(explanation):
        start, end, wordings = system.extent(explanation, claim)
        tokens = tuple(at for at, (a, b) in enumerate(offsets) if a < end and start < b)
        if tokens:
            found.append(ClaimTokens(claim, tokens, wordings))
    return found
