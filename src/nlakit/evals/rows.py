"""Held-out rows with a pair's readings of them: what evaluations start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.core.fidelity import RowErrors
from nlakit.errors import InputError
from nlakit.pair.pair import Pair

from .eval_set import EvalRows, EvalSet
from .floors import derangement
from .readings import RowReadings, read_rows, rebuild
from .section import Line, Section


@dataclass(frozen=True)
class ReadSample:
    """N rows of an evaluation set, and what the pair says of each."""

    pair: Pair
    eval_set: EvalSet
    sample: EvalRows
    reading: RowReadings
    seed: int
    temperature: float

    @property
    def vectors_ND(self) -> Float[Tensor, "N D"]:
        return self.sample.vectors_ND

    @property
    def states(self) -> Sequence[State] | None:
        """What is known of each row; None where nobody can check a claim."""
        return self.sample.states

    def known_states(self) -> Sequence[State]:
        """The states. Raises `InputError` where nobody can check a claim."""
        if self.states is None:
            raise InputError(
                f"Nobody knows which claims are true of {self.eval_set.name} under claims "
                f"{self.claims.name!r}. Give a pair and documents whose claims can be checked."
            )
        return self.states

    @property
    def claims(self) -> ClaimSystem:
        return self.eval_set.claims

    @property
    def doc_ids(self) -> list[str]:
        return self.sample.doc_ids

    @property
    def prefixes(self) -> list[str]:
        """The text up to each position."""
        return self.sample.prefixes

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
        notes: Sequence[str] = (),
    ) -> Section:
        """A section over these rows; `notes` come behind those of the pair."""
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
            notes=(*self.pair.notes, *notes),
        )


def read_sample(
    pair: Pair,
    eval_set: EvalSet,
    documents: int,
    seed: int,
    temperature: float = 0.0,
    positions: int = 1,
) -> ReadSample:
    """Read held-out documents of `seed`, `positions` rows in each.

    Raises:
        InputError: fewer than 2 documents.
    """
    check_documents(documents)
    rows = eval_set.sample(pair.target, "heldout", seed, documents, positions)
    return read_vectors(pair, eval_set, rows, seed, temperature)


def check_documents(documents: int) -> None:
    """Raise `InputError` for fewer documents than an interval needs."""
    if documents < 2:
        raise InputError(f"An evaluation needs at least 2 documents, found {documents}.")


def read_vectors(
    pair: Pair, eval_set: EvalSet, rows: EvalRows, seed: int, temperature: float = 0.0
) -> ReadSample:
    """Read activations that were taken already."""
    reading = read_rows(pair, pair.engine, rows.vectors_ND, temperature, seed)
    return ReadSample(pair, eval_set, rows, reading, seed, temperature)
