"""The rows that are being written: a batch for all requests, one for the rows of small requests,
and apart from them one in which the rows of a failed batch are tried again.

On a CPU a step takes the longer the more rows it has, so a small request that shares its batch with
500 positions would be as slow as they are. In a batch of its own it takes as many steps as fit into
the time of one step of the others, so that it costs them half of the time at most. Where all are
small, they share one batch.

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

COMMON, SMALL = 0, 1

log = logging.getLogger("nlakit.serve")


class Ended(NamedTuple):
    """A row that has come to its end, and what it says."""

    row: Row
    completion: Completion


class Stepped(NamedTuple):
    """The rows that have ended, and how many tokens were written."""

    ended: list[Ended]
    num_tokens: int


class Batches:
    """The rows of all requests, on the engine's thread.

    Args:
        new_batch: makes an empty batch of N rows at most.
        sizes: of the common batch, and of that of small requests.
        is_small: whether a row is of a small request. Where their batch is full, it shares.
        vector_of: a row's activation, as the verbalizer can read it.
        fail: told of a row that can not be written, and why; it has left.
        clock: in seconds.
    """

    def __init__(
        self,
        new_batch: Callable[[int], Session],
        sizes: tuple[int, int],
        is_small: Callable[[Row], bool],
        vector_of: Callable[[Row], Tensor],
        fail: Callable[[Row, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._new_batch, self._vector_of, self._fail = new_batch, vector_of, fail
        self._sizes, self._is_small, self._clock = sizes, is_small, clock
        self._lanes = [new_batch(size) for size in sizes]
        self._trial: Session | None = None
        self._suspects: deque[list[Row]] = deque()

    @property
    def rows(self) -> list[Row]:
        """All that are being written or are to be started over."""
        trial = self._trial.rows if self._trial is not None else ()
        waiting = [row for group in self._suspects for row in group]
        written = [row for lane in self._lanes for row in lane.rows]
        return [*written, *trial, *waiting]

    def __len__(self) -> int:
        trial = len(self._trial.rows) if self._trial is not None else 0
        written = sum(len(lane.rows) for lane in self._lanes)
        return written + trial + sum(map(len, self._suspects))

    def admit(self, rows: list[Row]) -> list[Ended]:
        """Let rows in and write their first tokens; returns those that this ended."""
        small = [row for row in rows if self._is_small(row)][: self._room_apart(rows)]
        apart = {id(row) for row in small}
        others = [row for row in rows if id(row) not in apart]
        return self._admit(SMALL, small) + self._admit(COMMON, others)

    def _room_apart(self, rows: Sequence[Row]) -> int:
        """Rows that the batch of small requests can take: none while there is no large one."""
        if all(self._is_small(row) for row in (*self._lanes[COMMON].rows, *rows)):
            return 0
        return max(0, self._sizes[SMALL] - len(self._lanes[SMALL].rows))

    def _admit(self, lane: int, rows: list[Row]) -> list[Ended]:
        if not rows:
            return []
        batch = self._lanes[lane]
        before = list(batch.rows)
        try:
            batch.admit(rows, self._vectors(rows))
        except FAILURES as error:
            self._lanes[lane] = self._new_batch(self._sizes[lane])
            self._start_over([group for group in (before, rows) if group], error)
            return []
        return self._release(batch)

    def step(self) -> Stepped:
        """Write one token in every row, and more in those of small requests."""
        started = self._clock()
        common = self._step_lane(COMMON)
        small = self._step_small(self._clock() - started)
        trial, num_tried = self._step_trial()
        ended = [*common.ended, *small.ended, *trial]
        return Stepped(ended, common.num_tokens + small.num_tokens + num_tried)

    def _step_small(self, seconds: float) -> Stepped:
        """Steps of the small requests, for so long as the others took theirs; at least one."""
        end = self._clock() + seconds
        ended, num_tokens = self._step_lane(SMALL)
        while self._lanes[SMALL].rows and self._clock() < end:
            more = self._step_lane(SMALL)
            ended, num_tokens = ended + more.ended, num_tokens + more.num_tokens
        return Stepped(ended, num_tokens)

    def _step_lane(self, lane: int) -> Stepped:
        num_rows = len(self._lanes[lane].rows)
        ended = self._step(self._lanes[lane])
        if ended is None:
            self._lanes[lane], ended = self._new_batch(self._sizes[lane]), []
        return Stepped(ended, num_rows)

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
        return self._lanes if self._trial is None else [*self._lanes, self._trial]

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

    def _step_trial(self) -> Stepped:
        """A step of the rows that are tried apart; the next of them, where there are none."""
        if self._trial is None or not self._trial.rows:
            waiting = len(self._suspects[0]) if self._suspects else 0
            return Stepped(self._next_trial() if waiting else [], waiting)
        num_rows = len(self._trial.rows)
        ended = self._step(self._trial)
        if ended is None:
            self._trial = None
        return Stepped(ended or [], num_rows)

    def _next_trial(self) -> list[Ended]:
        group = self._suspects.popleft()
        try:
            self._trial = self._trial or self._new_batch(self._sizes[COMMON])
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
