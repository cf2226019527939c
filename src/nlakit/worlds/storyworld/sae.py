"""The storyworld's documents for sparse autoencoders: passages whose facts are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nlakit.models.target import Encoded, Target
from nlakit.sae.texts import Passage
from nlakit.split import Split
from nlakit.storyworld.grammar import generate

from .documents import EncodedDocument, readable_documents, readable_positions

CORPUS_NAME = "storyworld"


@dataclass(frozen=True)
class StoryworldTexts:
    """Documents of a seed, every position that NLAs are read at."""

    seed: int

    @property
    def name(self) -> str:
        """As recipes call it."""
        return CORPUS_NAME

    @property
    def fingerprint(self) -> str:
        """The world and the seed."""
        return f"{CORPUS_NAME}/{self.seed}"

    def passages(self, target: Target, split: Split, first_index: int = 0) -> Iterator[Passage]:
        """See `sae.texts.TextSource`; there is no end."""
        for made in readable_documents(target, generate(self.seed, split, first_index)):
            yield _passage(made)


def fact_name(kind: str, value: str) -> str:
    """A fact as one word."""
    return f"{kind}={value}"


def _passage(made: EncodedDocument) -> Passage:
    document = made.document
    tokens = [document.text[start:end] for start, end in made.offsets]
    encoded = Encoded(made.ids, made.offsets, tokens, document.text)
    positions = readable_positions(made)
    facts = tuple(
        frozenset(
            fact_name(fact.kind, fact.value)
            for fact in document.facts
            if fact.holds_at(made.offsets[position][1])
        )
        for position in positions
    )
    return Passage(document.id, made.index, encoded, positions, facts)
