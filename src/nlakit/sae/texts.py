"""Texts as an autoencoder meets them: encoded, with the positions that are read, and what is known.

A source of texts is anything with `passages`; a corpus is one. A world whose facts are known is
another, and then each position comes with the facts that hold there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import head_or_none, pass_over
from nlakit.models.target import Encoded, Target
from nlakit.split import Split


class Passage(NamedTuple):
    """One document.

    Attributes:
        index: its number in the source, from which a reader can go on.
        positions: tokens whose activations are read.
        facts: per such position the facts that hold, as `kind=value`; None: nobody knows any.
        planned: those of them that are fixed by what was said but have not been said.
    """

    id: str
    index: int
    encoded: Encoded
    positions: list[int]
    facts: tuple[frozenset[str], ...] | None = None
    planned: tuple[frozenset[str], ...] | None = None


class TextSource(Protocol):
    """Where passages come from."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells one source from another."""
        ...

    def passages(self, target: Target, split: Split, first_index: int = 0) -> Iterator[Passage]:
        """Documents of a split in order, from a number on.

        Raises:
            InputError: they cannot be read.
        """
        ...


@dataclass(frozen=True)
class CorpusTexts:
    """A corpus, every token from `first_position` on of the first `max_tokens` of each document.

    Position 0 is left out by default: its activation is the same in every text and many times
    larger than others.
    """

    source: str
    max_tokens: int = 256
    first_position: int = 1

    @property
    def name(self) -> str:
        """The corpus."""
        return self.source

    @property
    def fingerprint(self) -> str:
        """Of its files, and of what is read of them."""
        return f"{Corpus(self.source).fingerprint}/{self.max_tokens}/{self.first_position}"

    def passages(self, target: Target, split: Split, first_index: int = 0) -> Iterator[Passage]:
        """See `TextSource`."""
        limit = min(self.max_tokens, target.max_tokens)
        for document in Corpus(self.source).documents(split, first_index, on_refused=pass_over):
            encoded = head_or_none(target, document, limit)
            if encoded is not None and len(encoded.ids) > self.first_position:
                positions = list(range(self.first_position, len(encoded.ids)))
                yield Passage(document.id, document.index, encoded, positions)
