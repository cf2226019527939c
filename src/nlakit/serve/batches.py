"""The rows that are being written: one batch for all requests, and apart from it one in which the
rows of a failed batch are tried again.

When a step fails, nobody can say which row was the reason. The rows are started over in two halves,
a half that fails again in two quarters, and so on: only a row that fails alone is told so. A row
keeps its random numbers, so that it says the same again. New rows are not delayed meanwhile.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nlakit.engines.base import Completion, Session
from nlakit.engines.local import Row
from nlakit.errors import NlakitError

FAILURES = (NlakitError, RuntimeError, ValueError, ArithmeticError, LookupError)
"""What a model can answer: out of memory, a bad shape, a refusal."""

log = logging.getLogger("nlakit.serve")


class Ended(NamedTuple):
    """A row that has come to its end, and what it says."""

    row: Row
    completion: Completion


class Batches:
    """The rows of all requests, on the engine's thread.

    Args:
        new_batch: makes an empty batch.
        vector_of: a row's activation, as the verbalizer can read it.
        fail: told of a row that can not be written, and why; it has left.
    """

    def __init__(
        self,
        new_batch: Callable[[], Session],
        vector_of: Callable[[Row], Tensor],
        fail: Callable[[Row, str], None],
    ) -> None:
        self._new_batch, self._vector_of, self._fail = new_batch, vector_of, fail
        self._common = new_batch()
        self._trial: Session | None = None
        self._suspects: deque[list[Row]] = deque()

    @property
    def rows(self) -> list[Row]:
        """All that are being written or are to be started over."""
        trial = self._trial.rows if self._trial is not None else ()
        waiting = [row for group in self._suspects for row in group]
        return [*self._common.rows, *trial, *waiting]

    def __len__(self) -> int:
        trial = len(self._trial.rows) if self._trial is not None else 0
        return len(self._common.rows) + trial + sum(map(len, self._suspects))

    def admit(self, rows: list[Row]) -> list[Ended]:
        """Let rows in and write their first tokens; returns those that this ended."""
        before = list(self._common.rows)
        try:
            self._common.admit(rows, self._vectors(rows))
        except FAILURES as error:
            self._common = self._new_batch()
            self._start_over([group for group in (before, rows) if group], error)
            return []
        return self._release(self._common)

    def step(self) -> list[Ended]:
        """Write one token in every row; returns the rows that have ended."""
        ended = self._step(self._common)
        if ended is None:
            self._common, ended = self._new_batch(), []
        return ended + self._step_trial()

    def drop(self, rows: Sequence[Row]) -> None:
        """Take out rows that nobody waits for any more."""
        gone = {id(row) for row in rows}
        for batch in self._batches():
            leaving = [row for row in batch.rows if id(row) in gone]
            if leaving:
                batch.drop(leaving)
        kept = ([row for row in group if id(row) not in gone] for group in self._suspects)
        self._suspects = deque(group for group in kept if group)

    def texts(self) -> list[tuple[Row, Callable[[], str]]]:
        """Each row in a batch, with a function that decodes its words so far."""
        return [
            (row, lambda batch=batch, row=row: batch.raw_text(row))
            for batch in self._batches()
            for row in batch.rows
        ]

    # -- one batch ---------------------------------------------------------------------------------
    def _batches(self) -> list[Session]:
        return [self._common] if self._trial is None else [self._common, self._trial]

    def _vectors(self, rows: Sequence[Row]) -> Tensor:
        return torch.stack([self._vector_of(row) for row in rows])

    def _step(self, batch: Session) -> list[Ended] | None:
        """One step of a batch; None: it failed, and its rows have been taken over."""
        rows = list(batch.rows)
        if not rows:
            return []
        try:
            batch.step()
        except FAILURES as error:
            self._start_over([rows], error)
            return None
        return self._release(batch)

    def _step_trial(self) -> list[Ended]:
        """A step of the rows that are tried apart; the next of them, where there are none."""
        if self._trial is None or not self._trial.rows:
            return self._next_trial() if self._suspects else []
        ended = self._step(self._trial)
        if ended is None:
            self._trial = None
        return ended or []

    def _next_trial(self) -> list[Ended]:
        group = self._suspects.popleft()
        try:
            self._trial = self._trial or self._new_batch()
            self._trial.admit(group, self._vectors(group))
        except FAILURES as error:
            self._trial = None
            self._start_over([group], error)
            return []
        return self._release(self._trial)

    def _release(self, batch: Session) -> list[Ended]:
        """The rows that have ended; one whose words cannot be read fails alone."""
        ended = []
        for row in batch.release():
            try:
                ended.append(Ended(row, batch.completion(row)))
            except FAILURES as error:
                self._fail(row, f"the explanation cannot be read: {reason(error)}")
        return ended

    def _start_over(self, groups: list[list[Row]], error: Exception) -> None:
        """Rows of a batch that failed are tried again in smaller groups; one alone is told so.

        Raises:
            torch.AcceleratorError: the device can not be used any more, by nobody.
        """
        if isinstance(error, torch.AcceleratorError):
            raise error
        log.warning("a batch failed and its rows are started over: %s", reason(error))
        if len(groups) == 1:
            groups = halves(groups[0])
        if not groups:
            return
        if len(groups) == 1:
            self._fail(groups[0][0], f"the engine failed: {reason(error)}")
            return
        for row in (row for group in groups for row in group):
            row.ids.clear()
            row.logprobs.clear()
        self._suspects.extend(groups)


def halves(rows: list[Row]) -> list[list[Row]]:
    """Two groups; one row alone is one."""
    middle = len(rows) // 2
    return [group for group in (rows[:middle], rows[middle:]) if group]


def reason(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]
