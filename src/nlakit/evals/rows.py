"""Held-out places of the storyworld with a pair's readings of them: what evaluations start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from nlakit.core.fidelity import RowErrors
from nlakit.data.extraction import ActivationRows, sample_storyworld
from nlakit.errors import InputError
from nlakit.pair.pair import Pair
from nlakit.storyworld.document import State
from nlakit.worlds.storyworld.documents import states_of

from .floors import derangement
from .readings import RowReadings, read_rows, rebuild
from .section import Line, Section


@dataclass(frozen=True)
class ReadSample:
    """N places, the state of the world at each, and what the pair says of them."""

    pair: Pair
    sample: ActivationRows
    states: Sequence[State]
    reading: RowReadings
    seed: int
    temperature: float

    @property
    def vectors_ND(self) -> Float[Tensor, "N D"]:
        return self.sample.vectors_ND

    @cached_property
    def doc_ids(self) -> list[str]:
        return self.sample.rows.column("doc_id").to_pylist()

    @cached_property
    def prefixes(self) -> list[str]:
        """The text up to each place."""
        return self.sample.rows.column("text").to_pylist()

    def errors(self, reconstruct: Callable[[list[str]], Tensor], texts: Sequence[str]) -> RowErrors:
        """Both terms of FVE for explanations of the rows, read by `reconstruct`."""
        return self.pair.errors_of(self.vectors_ND, rebuild(reconstruct, texts))

    def other_documents(self) -> list[int]:
        """For each row one of another document."""
        return derangement(self.doc_ids, self.seed)

    def section(
        self,
        name: str,
        title: str,
        about: str,
        lines: Sequence[Line],
        suspicions: Sequence[str] = (),
    ) -> Section:
        """A section over these rows."""
        return Section(
            name=name,
            title=title,
            about=about,
            nla=self.pair.name,
            documents=len(set(self.doc_ids)),
            rows=len(self.doc_ids),
            seed=self.seed,
            temperature=self.temperature,
            lines=tuple(lines),
            suspicions=tuple(suspicions),
            notes=self.pair.notes,
        )


def read_sample(
    pair: Pair, documents: int, seed: int, temperature: float = 0.0, positions: int = 1
) -> ReadSample:
    """Read held-out documents of `seed`, `positions` places in each.

    Raises:
        InputError: fewer than 2 documents.
    """
    if documents < 2:
        raise InputError(f"An evaluation needs at least 2 documents, found {documents}.")
    sample = sample_storyworld(pair.target, seed, "heldout", documents, positions)
    return read_vectors(pair, sample, seed, temperature)


def read_vectors(
    pair: Pair, sample: ActivationRows, seed: int, temperature: float = 0.0
) -> ReadSample:
    """Read activations that were taken already."""
    reading = read_rows(pair, pair.engine, sample.vectors_ND, temperature, seed)
    return ReadSample(pair, sample, states_of(sample.rows), reading, seed, temperature)
