"""The storyworld as an evaluation set: any number of documents, and the state at each position."""

from __future__ import annotations

import random
from itertools import islice

from nlakit.claims.system import ClaimSystem
from nlakit.evals.eval_set import EvalRows
from nlakit.models.target import Target
from nlakit.split import Split
from nlakit.storyworld.grammar import generate

from .claims import STORYWORLD
from .documents import EncodedDocument, readable_documents, sample_positions
from .extraction import read_places
from .readers import StoryworldReader


class StoryworldSet:
    """Documents of the storyworld; which ones by the seed, without end."""

    def __init__(self) -> None:
        self._reader = StoryworldReader()

    @property
    def name(self) -> str:
        return STORYWORLD.name

    @property
    def claims(self) -> ClaimSystem:
        return STORYWORLD

    @property
    def reader(self) -> StoryworldReader:
        return self._reader

    def sample(
        self, target: Target, split: Split, seed: int, documents: int, positions: int = 1
    ) -> EvalRows:
        """Rows of the first readable documents of a split of `seed`."""
        encoded = list(islice(readable_documents(target, generate(seed, split)), documents))
        places = [
            sample_positions(each, positions, random.Random(f"{each.document.id}/places"))
            for each in encoded
        ]
        return rows_at(target, encoded, places)

    def calibration(self, target: Target, seed: int, documents: int) -> EvalRows:
        """Held-out rows of `seed`: other seeds have other documents."""
        return self.sample(target, "heldout", seed, documents)


def rows_at(target: Target, encoded: list[EncodedDocument], places: list[list[int]]) -> EvalRows:
    """Rows at the given token positions of each document."""
    vectors_ND, rows = read_places(target, encoded, places)
    pairs = [
        (each, position)
        for each, positions in zip(encoded, places, strict=True)
        for position in positions
    ]
    return EvalRows(
        vectors_ND,
        rows,
        tokens=[each.ids for each, _ in pairs],
        states=[each.document.state(each.offsets[position][1]) for each, position in pairs],
    )
