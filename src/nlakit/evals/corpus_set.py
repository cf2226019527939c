"""Anybody's text as an evaluation set: held-out documents of a corpus, read by any target."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from nlakit.claims.system import ClaimSystem, State
from nlakit.data.corpora import Corpus, CorpusDocument
from nlakit.data.corpus_extraction import NEXT_TOKENS, Readable, head_or_none, pass_over, read_at
from nlakit.data.labels import Place, places_of
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.split import Split, is_for_calibration

from .eval_set import EvalRows, TextReader

MINIMUM_POSITION, MAX_TOKENS = 50, 1024


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
        documents_read, places = [each for each, _ in readable], [at for _, at in readable]
        checked = self._states_of is not None
        vectors_ND, table = read_at(target, documents_read, places, NEXT_TOKENS if checked else 0)
        return EvalRows(
            vectors_ND,
            table,
            tokens=[each.encoded.ids for each, positions in readable for _ in positions],
            states=None if self._states_of is None else self._states_of(list(places_of(table))),
        )

    @property
    def _states_of(self) -> Callable[[Sequence[Place]], list[State]] | None:
        """Makes the states of rows of any text; None where the claims cannot be checked here."""
        checker = self.claims.checker
        return None if checker is None else checker.states_of

    def _readable(
        self, target: Target, documents: Sequence[CorpusDocument], order: str, positions: int
    ) -> Iterator[tuple[Readable, list[int]]]:
        """Documents that can be read, and the positions to read in each."""
        longest = min(self.max_tokens, target.max_tokens)
        for document in documents:
            encoded = head_or_none(target, document, longest)
            usable = range(self.minimum_position, 0 if encoded is None else len(encoded.ids))
            if encoded is not None and usable:
                rng = random.Random(f"{order}/{document.id}/places")
                chosen = sorted(rng.sample(usable, min(positions, len(usable))))
                yield Readable(document, encoded), chosen
