"""Anybody's text as an evaluation set: held-out documents of a corpus, read by any target."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from nlakit.claims.system import ClaimSystem, State
from nlakit.data.corpora import Corpus, CorpusDocument
from nlakit.data.corpus_extraction import head_or_none, pass_over, row_of
from nlakit.data.labels import places_of
from nlakit.data.shards import ROW_SCHEMA
from nlakit.errors import InputError
from nlakit.models.target import Encoded, Target
from nlakit.split import Split, is_for_calibration

from .eval_set import DOCUMENTS_PER_PASS, EvalRows, TextReader

MINIMUM_POSITION, MAX_TOKENS = 50, 1024


class _Readable(NamedTuple):
    """A document as the target reads it, and the positions that are read."""

    document: CorpusDocument
    encoded: Encoded
    positions: list[int]


@dataclass(frozen=True)
class CorpusSet:
    """Documents of a corpus: one eighth of them, by content, is held out, as in extraction.

    A quarter of the held-out ones is kept for calibration and enters no report.

    Attributes:
        claims: of the pair that is measured.
        minimum_position: no token before this one is read.
        max_tokens: documents are cut there.
        reader: writes labels of the texts, where somebody can.
    """

    corpus: Corpus
    claims: ClaimSystem
    minimum_position: int = MINIMUM_POSITION
    max_tokens: int = MAX_TOKENS
    reader: TextReader | None = None

    @property
    def name(self) -> str:
        return Path(self.corpus.source).name

    def sample(
        self, target: Target, split: Split, seed: int, documents: int, positions: int = 1
    ) -> EvalRows:
        """Rows of documents of a split in an order of the seed; fewer where the corpus ends."""
        found = self._train if split == "train" else self._held_out
        return self._read(target, found, f"{seed}/{split}", documents, positions)

    def calibration(self, target: Target, seed: int, documents: int) -> EvalRows:
        """Rows of held-out documents that no report reads."""
        return self._read(target, self._for_calibration, f"{seed}/calibration", documents, 1)

    @cached_property
    def _train(self) -> list[CorpusDocument]:
        return list(self.corpus.documents("train", on_refused=pass_over))

    @cached_property
    def _held_out(self) -> list[CorpusDocument]:
        found = self.corpus.documents("heldout", on_refused=pass_over)
        return [each for each in found if not is_for_calibration(each.content)]

    @cached_property
    def _for_calibration(self) -> list[CorpusDocument]:
        found = self.corpus.documents("heldout", on_refused=pass_over)
        return [each for each in found if is_for_calibration(each.content)]

    def _read(
        self,
        target: Target,
        documents: Sequence[CorpusDocument],
        order: str,
        num: int,
        positions: int,
    ) -> EvalRows:
        shuffled = random.Random(order).sample(documents, len(documents))
        readable = list(islice(self._readable(target, shuffled, order, positions), num))
        if not readable:
            raise InputError(
                f"{self.corpus.source} has no document for {order.partition('/')[2]!r} with a "
                f"token at {self.minimum_position} or later ({len(documents)} documents looked "
                "at). Give more or longer documents, or a smaller --minimum-position."
            )
        rows = [
            row_of(each.document, each.encoded, position, target.site.layer)
            for each in readable
            for position in each.positions
        ]
        table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
        return EvalRows(
            _activations(target, readable),
            table,
            tokens=[each.encoded.ids for each in readable for _ in each.positions],
            states=self._states(table),
        )

    def _states(self, table: pa.Table) -> list[State] | None:
        checker = self.claims.checker
        if checker is None or checker.states_of is None:
            return None
        return checker.states_of(list(places_of(table)))

    def _readable(
        self, target: Target, documents: Sequence[CorpusDocument], order: str, positions: int
    ) -> Iterator[_Readable]:
        longest = min(self.max_tokens, target.max_tokens)
        for document in documents:
            encoded = head_or_none(target, document, longest)
            usable = range(self.minimum_position, 0 if encoded is None else len(encoded.ids))
            if encoded is not None and usable:
                rng = random.Random(f"{order}/{document.id}/places")
                chosen = sorted(rng.sample(usable, min(positions, len(usable))))
                yield _Readable(document, encoded, chosen)


def _activations(target: Target, readable: Sequence[_Readable]) -> torch.Tensor:
    found: list[torch.Tensor] = []
    for start in range(0, len(readable), DOCUMENTS_PER_PASS):
        chunk = readable[start : start + DOCUMENTS_PER_PASS]
        ids, places = [each.encoded.ids for each in chunk], [each.positions for each in chunk]
        found += target.activations(ids, places)
    return torch.cat(found).float().cpu()
