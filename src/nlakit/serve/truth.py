"""What an explanation claims, whether it is true, and what a probe says, in the storyworld."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

from nlakit.card import NlaCard
from nlakit.evals.probe_store import ProbeAnswer, Probes
from nlakit.models.chat_marks import common_prefix
from nlakit.storyworld.claims import check, parse
from nlakit.storyworld.document import Document, State
from nlakit.storyworld.grammar import document

from .queue import ScoredSample
from .schemas_v1 import ClaimResult, DocumentRef, ProbeReading
from .tokens import Prompt

WORLD = "storyworld"

ClaimsOf = Callable[[ScoredSample], list[ClaimResult]]
"""The claims of an explanation of one activation."""


def reads_storyworld(card: NlaCard) -> bool:
    """Whether an NLA's explanations can be read back into claims."""
    return WORLD in f"{card.name} {card.description}".lower()


@lru_cache(maxsize=64)
def document_of(reference: tuple[int, int, str | None]) -> Document:
    """The document that was named; making one takes a millisecond."""
    return document(*reference)


class Judge:
    """Checks the claims of explanations of one prompt.

    Args:
        reference: which document the prompt is the head of; None: nobody knows.
        probes: read the activations beside the explanations.
    """

    def __init__(
        self,
        prompt: Prompt | None,
        reference: DocumentRef | None,
        probes: Probes | None = None,
    ) -> None:
        self._prompt, self._document, self._probes = prompt, None, probes
        if prompt is not None and reference is not None:
            self._document = document_of((reference.seed, reference.index, reference.genre))
            self._head, self._matched = _match(prompt.encoded.text, self._document.text)

    def at(self, position: int, vector_D: Tensor) -> ClaimsOf:
        """How explanations of the activation at a token are judged: with a verdict where it can be
        had, and a probe's answer where there is a probe of the claim's kind."""
        state = self._state(position)
        answers = {} if self._probes is None else self._probes.read(vector_D)

        def claims_of(sample: ScoredSample) -> list[ClaimResult]:
            chances = {(each.start, each.kind): each.confidence for each in sample.claims}
            return [
                ClaimResult(
                    kind=claim.kind,
                    value=claim.value,
                    start=claim.start,
                    end=claim.end,
                    verdict=None if state is None else check(claim, state),
                    confidence=chances.get((claim.start, claim.kind)),
                    probe=self._reading(claim.kind, answers),
                )
                for claim in parse(sample.text)
            ]

        return claims_of

    def _state(self, position: int) -> State | None:
        if self._prompt is None or self._document is None:
            return None
        char_end = max(0, self._prompt.encoded.offsets[position][1] - self._head)
        return self._document.state(char_end) if char_end <= self._matched else None

    def _reading(self, kind: str, answers: dict[str, ProbeAnswer]) -> ProbeReading | None:
        answer = answers.get(kind)
        if answer is None or self._probes is None:
            return None
        tested = self._probes.card.kinds[kind]
        return ProbeReading(
            value=answer.value,
            confidence=answer.confidence,
            accuracy=tested.accuracy,
            chance=tested.chance,
        )


def _match(text: str, world_text: str) -> tuple[int, int]:
    """Where the document begins in a text (a template may write BOS), and how far they agree."""
    start = max(0, text.find(world_text[:12])) if world_text else 0
    return start, _shared(text[start:], world_text)


def _shared(first: str, second: str) -> int:
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return common_prefix(first, second)
