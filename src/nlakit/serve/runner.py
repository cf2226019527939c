"""The thread that owns the models: one batch that never ends, in which rows of all requests are
written side by side, and small calls between its steps.

Nothing else runs a model while the server is up.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from nlakit.engines.base import Completion, with_sessions
from nlakit.engines.local import Row
from nlakit.pair.pair import Pair
from nlakit.pair.score import in_range, score_rows
from nlakit.reading import Score

from .batches import FAILURES, Batches, Ended, reason
from .clients import NOBODY, Client, Turns
from .metrics import Metrics
from .queue import RESERVED, FairQueue, Job, ScoredSample, Ticket, Unavailable, now

T = TypeVar("T")
PROGRESS_S = 1 / 15
SCORE_ROWS, SCORE_WAIT_S = 8, 0.03
"""Ended rows are scored when there are so many, or the first has waited so long, or none is left
to wait for; so many at a time, or a quarter of them where a large request ends all at once."""
CALLS_S = 0.04
"""Between two steps small calls are begun for so long; at least one is made."""

log = logging.getLogger("nlakit.serve")


class Stepper(Protocol):
    """Work of many steps: `advance` does one and says whether there is more."""

    def advance(self) -> bool: ...
    def fail(self, message: str) -> None: ...


class Told(NamedTuple):
    """When words of a row were last told, and how many tokens they were."""

    time: float
    num_tokens: int


class Runner:
    """Runs the models of one NLA on a thread of its own."""

    def __init__(self, nla: Pair, queue: FairQueue, metrics: Metrics) -> None:
        self.nla, self.queue, self.metrics = nla, queue, metrics
        self.failed: str | None = None
        self.engine = with_sessions(nla.engine)
        self._calls: Turns[tuple[Callable[[], Any], Future[Any]]] = Turns()
        self._steppers: list[Stepper] = []
        self._ended: list[Ended] = []
        self._since: dict[Row, float] = {}
        self._told: dict[Row, Told] = {}
        self._first_ended = 0.0
        self._stopping = False
        num_small = max(1, queue.max_rows // RESERVED)
        self._batches = Batches(
            self.engine.session,
            (queue.max_rows, num_small),
            lambda row: ticket_of(row).job.num_rows <= num_small,
            lambda row: in_range(row_vector(row)),
            lambda row, message: self._fail([row], message),
            lambda: now(),
        )
        self._thread = threading.Thread(target=self._run, name="nlakit-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what still runs is told so."""
        self.queue.stop("The server is shutting down.", fail_open=True)
        with self.queue.changed:
            self._stopping = True
            self.queue.changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def call(self, work: Callable[[], T], client: Client = NOBODY) -> Future[T]:
        """Run a small piece of work between two steps; clients take turns."""
        future: Future[T] = Future()
        with self.queue.changed:
            if self.failed or self._stopping:
                raise Unavailable(self.failed or "The server is shutting down.")
            self._calls.push(client, (work, future))
            self.queue.changed.notify_all()
        return future

    def add(self, stepper: Stepper) -> None:
        """Take a step of this work in every round, until it is done."""
        with self.queue.changed:
            if self.failed or self._stopping:
                raise Unavailable(self.failed or "The server is shutting down.")
            self._steppers.append(stepper)
            self.queue.changed.notify_all()

    @property
    def num_active(self) -> int:
        """Rows in the batch, or ended and not scored yet."""
        return len(self._batches) + len(self._ended)

    # -- the thread --------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while self._wait():
                self._round()
        finally:
            self._end()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False: the server is shutting down."""
        with self.queue.changed:
            while not (self._stopping or self._has_work()):
                self.queue.changed.wait()
            return not self._stopping

    def _has_work(self) -> bool:
        mine = self._calls or self._steppers or self._ended or self._batches
        return bool(mine) or self.queue.num_waiting > 0

    def _end(self) -> None:
        """Tell everybody who waits, whatever the reason: a silent thread is a hanging request."""
        with self.queue.changed:
            if not self._stopping:
                self.failed = "The engine has stopped. Start the server again; its log says why."
            message = self.failed or "The server is shutting down."
            calls = [self._calls.pop() for _ in range(len(self._calls))]
            steppers, self._steppers = self._steppers, []
        self.queue.stop(message, fail_open=True)
        for _, future in calls:
            future.set_exception(Unavailable(message))
        for stepper in steppers:
            stepper.fail(message)

    def _round(self) -> None:
        self._run_calls()
        self._drop_closed()
        self._admit()
        self._step()
        self._score()
        self._advance()

    def _run_calls(self) -> None:
        end = now() + CALLS_S
        while self._calls:
            with self.queue.changed:
                work, future = self._calls.pop()
            self._run_call(work, future)
            if now() >= end:
                return

    @staticmethod
    def _run_call(work: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            with torch.inference_mode():
                result = work()
        except FAILURES as error:
            future.set_exception(error)
            if isinstance(error, torch.AcceleratorError):
                raise
        else:
            future.set_result(result)

    def _drop_closed(self) -> None:
        gone = [row for row in self._batches.rows if ticket_of(row).job.closed]
        if gone:
            self._batches.drop(gone)
        ended = [each.row for each in self._ended if ticket_of(each.row).job.closed]
        if ended:
            self._ended = [each for each in self._ended if not ticket_of(each.row).job.closed]
        self._leave([*gone, *ended], "cancelled")

    def _admit(self) -> None:
        """Let the next rows in; one with a vector that cannot be read is told so."""
        rows = []
        for ticket in self.queue.take(len(self._batches)):
            row = Row(ticket.place, ticket.sample, ticket.job.sampling, ticket)
            if bool(torch.isfinite(row_vector(row)).all()):
                rows.append(row)
            else:
                self._fail([row], "the activation is not finite")
        if rows:
            self._since.update(dict.fromkeys(rows, now()))
            # A first token may be the last: such a row must leave before the next step.
            self._collect(self._batches.admit(rows), len(rows))

    def _step(self) -> None:
        if self._batches:
            self._collect(*self._batches.step())
            self._tell_progress()

    def _collect(self, ended: list[Ended], num_tokens: int) -> None:
        """Keep what has ended, until it is scored; who watches sees all its words before."""
        self.metrics.tokens.inc(num_tokens)
        for row, completion in ended:
            ticket = ticket_of(row)
            if ticket.job.watched and ticket.sample == 0:
                ticket.job.tell_progress(ticket.place, completion.raw_text)
        if ended and not self._ended:
            self._first_ended = now()
        self._ended += ended

    def _tell_progress(self) -> None:
        """Words so far of each watched place, at most fifteen times a second. Of a row that is
        started over nothing is told until it has more to say than before."""
        time = now()
        for row, text in self._batches.texts():
            ticket = ticket_of(row)
            told = self._told.get(row, Told(0.0, 0))
            due = time - told.time >= PROGRESS_S and len(row.ids) > told.num_tokens
            if ticket.job.watched and ticket.sample == 0 and due:
                self._told[row] = Told(time, len(row.ids))
                ticket.job.tell_progress(ticket.place, text())

    def _score(self) -> None:
        waited = now() - self._first_ended
        enough = len(self._ended) >= SCORE_ROWS or waited >= SCORE_WAIT_S
        if not self._ended or not (enough or not self._batches):
            return
        ended = self._next_to_score()
        try:
            self._tell(ended, self._scores(ended))
        except FAILURES as error:
            self._score_singly(ended, error)

    def _next_to_score(self) -> list[Ended]:
        """A slice of the ended rows, each client's first ones before anybody's later ones."""
        seen: Counter[Client] = Counter()
        ranks: dict[Row, int] = {}
        for row, _ in self._ended:
            client = ticket_of(row).job.client
            ranks[row], seen[client] = seen[client], seen[client] + 1
        ranked = sorted(self._ended, key=lambda pair: ranks[pair[0]])
        count = max(SCORE_ROWS, len(ranked) // 4)
        self._ended = ranked[count:]
        return ranked[:count]

    def _score_singly(self, ended: list[Ended], error: Exception) -> None:
        """One bad row must not take the others with it."""
        for pair in ended:
            try:
                self._tell([pair], self._scores([pair]))
            except FAILURES as own_error:
                self._fail([pair[0]], f"the explanation cannot be scored: {reason(own_error)}")

    def _scores(self, ended: list[Ended]) -> list[ScoredSample]:
        vectors_ND = torch.stack([row_vector(row) for row, _ in ended])
        completions = [completion for _, completion in ended]
        samples = score(self.nla, vectors_ND, completions)
        for temperature in {row.sampling.temperature for row, _ in ended}:
            self._add_claims(ended, samples, temperature, vectors_ND)
        return samples

    def _add_claims(
        self,
        ended: list[Ended],
        samples: list[ScoredSample],
        temperature: float,
        vectors_ND: Tensor,
    ) -> None:
        """How likely each claim is true, for those who asked: one more pass of the verbalizer."""
        scores = {
            index: found
            for index, (row, _) in enumerate(ended)
            if ticket_of(row).job.judged
            and row.sampling.temperature == temperature
            and (found := as_score(samples[index])) is not None
        }
        if self.nla.confidence is None or not scores:
            return
        completions = [ended[index][1] for index in scores]
        own_ND = vectors_ND[list(scores)]
        claims = self.nla.claims(completions, list(scores.values()), temperature, own_ND)
        for index, found in zip(scores, claims, strict=True):
            samples[index] = samples[index]._replace(claims=found)

    def _tell(self, ended: list[Ended], scores: list[ScoredSample]) -> None:
        self._leave([row for row, _ in ended], "finished")
        for (row, _), sample in zip(ended, scores, strict=True):
            ticket = ticket_of(row)
            ticket.job.tell_sample(ticket, sample)

    def _fail(self, rows: list[Row], message: str) -> None:
        places: dict[tuple[Job, int], None] = dict.fromkeys(
            (ticket_of(row).job, ticket_of(row).place) for row in rows
        )
        self._leave(rows, "failed")
        for job, place in places:
            job.tell_error(place, message)

    def _leave(self, rows: list[Row], outcome: str) -> None:
        for row in rows:
            self._told.pop(row, None)
            since = self._since.pop(row, None)
            seconds = now() - since if since is not None and outcome == "finished" else None
            self.queue.left(ticket_of(row), seconds)
        if rows:
            self.metrics.rows.labels(outcome).inc(len(rows))

    def _advance(self) -> None:
        for stepper in list(self._steppers):
            try:
                with torch.inference_mode():
                    more = stepper.advance()
            except FAILURES as error:
                more = False
                stepper.fail(reason(error))
            if not more:
                with self.queue.changed:
                    self._steppers.remove(stepper)


def score(nla: Pair, vectors_ND: Tensor, completions: Sequence[Completion]) -> list[ScoredSample]:
    """Each explanation with how near the vector rebuilt from it comes to the activation."""
    scores = score_rows(nla.card, vectors_ND, nla.rebuild([each.text for each in completions]))
    return [
        ScoredSample(
            each.text,
            each.closed,
            finite(found.mse),
            finite(found.cosine),
            finite(found.fidelity),
            found.word if math.isfinite(found.fidelity) else None,
        )
        for each, found in zip(completions, scores, strict=True)
    ]


def as_score(sample: ScoredSample) -> Score | None:
    """The scores of a sample; None where one is not finite."""
    fidelity, cosine, mse, word = sample.fidelity, sample.cosine, sample.mse, sample.word
    if fidelity is None or cosine is None or mse is None or word is None:
        return None
    return Score(fidelity=fidelity, cosine=cosine, mse=mse, word=word)


def finite(number: float) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return number if math.isfinite(number) else None


def ticket_of(row: Row) -> Ticket:
    """Which job a row belongs to."""
    assert isinstance(row.tag, Ticket)
    return row.tag


def row_vector(row: Row) -> Tensor:
    """A row's raw activation."""
    ticket = ticket_of(row)
    return ticket.job.vectors[ticket.place]
