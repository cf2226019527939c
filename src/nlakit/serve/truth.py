"""What an explanation claims, and whether it is true, where the NLA reads the storyworld."""

from __future__ import annotations

from functools import lru_cache

from nlakit.card import NlaCard
from nlakit.storyworld.claims import check, parse
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import document

from .schemas_v1 import ClaimResult, DocumentRef
from .spans import common_prefix
from .tokens import Prompt

WORLD = "storyworld"


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
    """

    def __init__(self, prompt: Prompt | None, reference: DocumentRef | None) -> None:
        self._prompt, self._document = prompt, None
        if prompt is not None and reference is not None:
            self._document = document_of((reference.seed, reference.index, reference.genre))
            self._head, self._matched = _match(prompt.encoded.text, self._document.text)

    def claims(self, description: str, position: int) -> list[ClaimResult]:
        """The claims of the explanation at a token, each with its verdict where it can be had."""
        state = None
        if self._prompt is not None and self._document is not None:
            char_end = max(0, self._prompt.encoded.offsets[position][1] - self._head)
            state = self._document.state(char_end) if char_end <= self._matched else None
        return [
            ClaimResult(
                kind=claim.kind,
                value=claim.value,
                start=claim.start,
                end=claim.end,
                verdict=None if state is None else check(claim, state),
            )
            for claim in parse(description)
        ]


def _match(text: str, world_text: str) -> tuple[int, int]:
    """Where the document begins in a text (a template may write BOS), and how far they agree."""
    start = max(0, text.find(world_text[:12])) if world_text else 0
    return start, _shared(text[start:], world_text)


def _shared(first: str, second: str) -> int:
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return common_prefix([*map(ord, first)], [*map(ord, second)])
