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
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from nlakit.core.fidelity import reconstruction_mse
from nlakit.engines.base import Completion
from nlakit.engines.local import Row
from nlakit.errors import NlakitError
from nlakit.pair.pair import NLA
from nlakit.reading import Score

from .metrics import Metrics
from .queue import FairQueue, Job, ScoredSample, Ticket, Turns, Unavailable, now

T = TypeVar("T")
FAILURES = (NlakitError, RuntimeError, ValueError, ArithmeticError, LookupError)
"""What a model can answer: out of memory, a bad shape, a refusal."""

PROGRESS_S = 1 / 15
SCORE_ROWS, SCORE_WAIT_S = 8, 0.03
"""Ended rows are scored when there are so many, or the first has waited so long, or none is left
to wait for; so many at a time, or a quarter of them where a large request ends all at once."""
CALLS_S = 0.04
"""Between two steps small calls are begun for so long; at least one is made."""
INPUT_LIMIT = 1e15
"""Larger components would overflow when squared; only a vector's direction matters."""

log = logging.getLogger("nlakit.serve")


class Session(Protocol):
    """A batch that never ends (see `engines.local.Session`)."""

    max_rows: int

    @property
    def rows(self) -> Sequence[Row]: ...
    def admit(self, rows: list[Row], vectors_ND: Tensor) -> None: ...
    def step(self) -> None: ...
    def release(self) -> list[Row]: ...
    def drop(self, rows: list[Row]) -> None: ...
    def completion(self, row: Row) -> Completion: ...
    def raw_text(self, row: Row) -> str: ...


class Stepper(Protocol):
    """Work of many steps: `advance` does one and says whether there is more."""

    def advance(self) -> bool: ...
    def fail(self, message: str) -> None: ...


class Runner:
    """Runs the models of one NLA on a thread of its own."""

    def __init__(self, nla: NLA, queue: FairQueue, metrics: Metrics) -> None:
        self.nla, self.queue, self.metrics = nla, queue, metrics
        self.failed: str | None = None
        self._engine: Any = nla.engine
        self._calls: Turns[tuple[Callable[[], Any], Future[Any]]] = Turns()
        self._steppers: list[Stepper] = []
        self._ended: list[tuple[Row, Completion]] = []
        self._since: dict[Row, float] = {}
        self._told: dict[Row, float] = {}
        self._first_ended = 0.0
        self._stopping = False
        self._session: Session = self._engine.session(queue.max_rows)
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

    def call(self, work: Callable[[], T], client: str = "") -> Future[T]:
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
        return len(self._session.rows) + len(self._ended)

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
        mine = self._calls or self._steppers or self._ended or self._session.rows
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
        if self._session.rows:
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
        else:
            future.set_result(result)

    def _drop_closed(self) -> None:
        gone = [row for row in self._session.rows if ticket_of(row).job.closed]
        if gone:
            self._session.drop(gone)
        ended = [pair for pair in self._ended if ticket_of(pair[0]).job.closed]
        if ended:
            self._ended = [pair for pair in self._ended if pair not in ended]
        self._leave([*gone, *(row for row, _ in ended)], "cancelled")

    def _admit(self) -> None:
        """Let the next rows in; one with a vector that cannot be read is told so."""
        rows = []
        for ticket in self.queue.take(len(self._session.rows)):
            vector_D = ticket.job.vectors[ticket.place]
            row = Row(ticket.place, ticket.sample, ticket.job.sampling, ticket)
            if bool(torch.isfinite(vector_D).all()):
                rows.append(row)
            else:
                self._fail([row], "the activation is not finite")
        if not rows:
            return
        try:
            vectors = torch.stack([row_vector(row) for row in rows])
            self._session.admit(rows, in_range(vectors))
        except FAILURES as error:
            self._start_over([*rows, *self._session.rows], error)
            return
        started = now()
        self._since.update(dict.fromkeys(rows, started))

    def _step(self) -> None:
        rows = list(self._session.rows)
        try:
            self._session.step()
            pairs = [(row, self._session.completion(row)) for row in self._session.release()]
        except FAILURES as error:
            self._start_over(rows, error)
            return
        self.metrics.tokens.inc(len(rows))
        if pairs and not self._ended:
            self._first_ended = now()
        self._ended += pairs
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Words so far of each watched place, at most fifteen times a second."""
        time = now()
        for row in self._session.rows:
            ticket = ticket_of(row)
            wanted = ticket.job.watched and ticket.sample == 0
            if wanted and time - self._told.get(row, 0) >= PROGRESS_S:
                self._told[row] = time
                ticket.job.tell_progress(ticket.place, self._session.raw_text(row))

    def _score(self) -> None:
        waited = now() - self._first_ended
        enough = len(self._ended) >= SCORE_ROWS or waited >= SCORE_WAIT_S
        if not self._ended or not (enough or not self._session.rows):
            return
        ended = self._next_to_score()
        try:
            self._tell(ended, self._scores(ended))
        except FAILURES as error:
            self._score_singly(ended, error)

    def _next_to_score(self) -> list[tuple[Row, Completion]]:
        """A slice of the ended rows, each client's first ones before anybody's later ones."""
        seen: Counter[str] = Counter()
        ranks: dict[Row, int] = {}
        for row, _ in self._ended:
            client = ticket_of(row).job.client
            ranks[row], seen[client] = seen[client], seen[client] + 1
        ranked = sorted(self._ended, key=lambda pair: ranks[pair[0]])
        count = max(SCORE_ROWS, len(ranked) // 4)
        self._ended = ranked[count:]
        return ranked[:count]

    def _score_singly(self, ended: list[tuple[Row, Completion]], error: Exception) -> None:
        """One bad row must not take the others with it."""
        for pair in ended:
            try:
                self._tell([pair], self._scores([pair]))
            except FAILURES as own_error:
                self._fail([pair[0]], f"the explanation cannot be scored: {reason(own_error)}")

    def _scores(self, ended: list[tuple[Row, Completion]]) -> list[ScoredSample]:
        vectors_ND = torch.stack([row_vector(row) for row, _ in ended])
        completions = [completion for _, completion in ended]
        samples = score(self.nla, vectors_ND, completions)
        for temperature in {row.sampling.temperature for row, _ in ended}:
            self._add_claims(ended, samples, temperature)
        return samples

    def _add_claims(
        self, ended: list[tuple[Row, Completion]], samples: list[ScoredSample], temperature: float
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
        claims = self.nla.claims(completions, list(scores.values()), temperature)
        for index, found in zip(scores, claims, strict=True):
            samples[index] = samples[index]._replace(claims=found)

    def _tell(self, ended: list[tuple[Row, Completion]], scores: list[ScoredSample]) -> None:
        self._leave([row for row, _ in ended], "finished")
        for (row, _), sample in zip(ended, scores, strict=True):
            ticket = ticket_of(row)
            ticket.job.tell_sample(ticket, sample)

    def _start_over(self, rows: list[Row], error: Exception) -> None:
        """The batch is broken: its rows are told so, and the next ones get a new batch."""
        log.warning("the batch failed and was started over: %s", reason(error))
        self._session = self._engine.session(self.queue.max_rows)
        self._fail(list(dict.fromkeys(rows)), f"the engine failed: {reason(error)}")

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


def score(nla: NLA, vectors_ND: Tensor, completions: Sequence[Completion]) -> list[ScoredSample]:
    """Each explanation with how near the vector rebuilt from it comes to the activation."""
    rebuilt_ND = nla.engine.reconstruct([each.text for each in completions]).cpu().float()
    vectors_ND = in_range(vectors_ND.cpu())
    mse_N = reconstruction_mse(vectors_ND, rebuilt_ND, math.sqrt(nla.card.d_model)).tolist()
    cosine_N = torch.cosine_similarity(vectors_ND, rebuilt_ND, dim=-1).tolist()
    return [
        ScoredSample(
            each.text,
            each.closed,
            finite(mse),
            finite(cosine),
            finite(1 - mse / nla.card.variance),
        )
        for each, mse, cosine in zip(completions, mse_N, cosine_N, strict=True)
    ]


def as_score(sample: ScoredSample) -> Score | None:
    """The scores of a sample; None where one is not finite."""
    if sample.fidelity is None or sample.cosine is None or sample.mse is None:
        return None
    return Score(fidelity=sample.fidelity, cosine=sample.cosine, mse=sample.mse)


def in_range(vectors_ND: Tensor) -> Tensor:
    """Rows whose squares would overflow, made smaller; all others as they are."""
    largest_N1 = vectors_ND.abs().amax(dim=-1, keepdim=True)
    return torch.where(largest_N1 > INPUT_LIMIT, vectors_ND / largest_N1, vectors_ND)


def finite(number: float) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return number if math.isfinite(number) else None


def reason(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]


def ticket_of(row: Row) -> Ticket:
    """Which job a row belongs to."""
    assert isinstance(row.tag, Ticket)
    return row.tag


def row_vector(row: Row) -> Tensor:
    """A row's raw activation."""
    ticket = ticket_of(row)
    return ticket.job.vectors[ticket.place]
