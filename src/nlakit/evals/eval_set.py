"""What evaluations are taken on: rows of documents, and all that is known of them.

The storyworld's is in `worlds.storyworld.eval_set`, where the truth is known; `corpus_set` reads
anybody's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.models.target import Target
from nlakit.split import Split

DOCUMENTS_PER_PASS = 256


@dataclass(frozen=True)
class EvalRows:
    """N activations of a target.

    Attributes:
        vectors_ND: raw, at the target's site.
        rows: where each was taken (`data.shards.ROW_SCHEMA`).
        tokens: per row the token ids of its whole document, BOS included.
        states: what the set's claim system knows of each row; None: nothing.
    """

    vectors_ND: Float[Tensor, "N D"]
    rows: pa.Table
    tokens: Sequence[Sequence[int]]
    states: Sequence[State] | None

    @cached_property
    def doc_ids(self) -> list[str]:
        return self.rows.column("doc_id").to_pylist()

    @cached_property
    def positions(self) -> list[int]:
        return self.rows.column("position").to_pylist()

    @cached_property
    def prefixes(self) -> list[str]:
        """The text up to each position."""
        return self.rows.column("text").to_pylist()

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Per row the token ids up to its position."""
        rows = zip(self.tokens, self.positions, strict=True)
        return [list(ids[: position + 1]) for ids, position in rows]

    @cached_property
    def following_N(self) -> Tensor:
        """The token id that follows each position; -1 at the end of a document."""
        rows = zip(self.tokens, self.positions, strict=True)
        return torch.tensor([ids[at + 1] if at + 1 < len(ids) else -1 for ids, at in rows])

    def take(self, chosen: Sequence[int]) -> EvalRows:
        """Some of the rows, in the order given."""
        return EvalRows(
            self.vectors_ND[list(chosen)],
            self.rows.take(list(chosen)),
            [self.tokens[row] for row in chosen],
            None if self.states is None else [self.states[row] for row in chosen],
        )


class TextReader(Protocol):
    """Writes explanations of what a text says: what a reader has who is not given the vector."""

    def labels(self, rows: EvalRows) -> list[str]:
        """What the teacher, who sees the text, writes of each row."""
        ...

    def relabelled(self, rows: EvalRows, texts: Sequence[str]) -> list[str]:
        """As `labels`, of texts that differ from the rows' own in their last words."""
        ...

    def keywords(self, text: str, ending: bool = True) -> str:
        """What somebody makes of a text who only counts words.

        Args:
            ending: whether the text ends where the reading is of.
        """
        ...


class EvalSet(Protocol):
    """Documents that a pair can be measured on.

    Attributes:
        name: as reports give it.
        claims: reads claims out of the explanations; where it can check them, rows have states.
        reader: reads the texts; None: nobody has labels of them.
    """

    @property
    def name(self) -> str: ...
    @property
    def claims(self) -> ClaimSystem: ...
    @property
    def reader(self) -> TextReader | None: ...

    def sample(
        self, target: Target, split: Split, seed: int, documents: int, positions: int = 1
    ) -> EvalRows:
        """Rows of documents of a split, which ones and where by the seed.

        Raises:
            InputError: there are none that the target can read.
        """
        ...

    def calibration(self, target: Target, seed: int, documents: int) -> EvalRows:
        """Held-out rows to fit a calibrator on: no `sample` of another seed has one of them.

        Raises:
            InputError: there are none that the target can read.
        """
        ...


def neighbours(
    target: Target, rows: EvalRows, steps: Sequence[int]
) -> tuple[Float[Tensor, "M D"], list[int]]:
    """Activations at the tokens some steps from each row; returns how many each row has, too."""
    places = [
        [here + step for step in steps if 0 < here + step < len(ids)]
        for ids, here in zip(rows.tokens, rows.positions, strict=True)
    ]
    found: list[Tensor] = []
    for start in range(0, len(places), DOCUMENTS_PER_PASS):
        chunk = slice(start, start + DOCUMENTS_PER_PASS)
        found += target.activations([list(ids) for ids in rows.tokens[chunk]], places[chunk])
    return torch.cat(found).float().cpu(), [len(group) for group in places]
