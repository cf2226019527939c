"""Who is written next: one bounded queue in front of the engine, fair between clients.

A request is a `Job` of many places (positions, vectors), a place has a row for each sample. A free
row of the batch goes to the address with the fewest rows in it, there to the client with the
fewest, and within a client to the request with the fewest; equals take turns. So whoever asks for
one position is next when a row ends, however many rows wait, and invented client names take nothing
from other addresses. The last places are kept for requests that have none, so that they need not
even wait for that. Knows nothing of models; everything here may be called from any thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from nlakit.engines.base import Sampling
from nlakit.errors import NlakitError
from nlakit.fidelity_scale import GradeWord
from nlakit.reading import ReadClaim

from .clients import Client

K = TypeVar("K")
RESERVED = 8
"""One row in this many is kept for requests that have none yet."""
ADDRESS_SHARE, CLIENT_SHARE = 0.75, 0.5
"""How much of the open requests one address, and one client, may have."""
LONGEST_RETRY_S = 120


class Busy(NlakitError):
    """The queue is full. `retry_after`: seconds after which to ask again."""

    def __init__(self, message: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(NlakitError):
    """The engine has stopped, or the server is being shut down."""


class ScoredSample(NamedTuple):
    """One explanation; its scores are None where they are not finite."""

    text: str
    closed: bool
    mse: float | None
    cosine: float | None
    fidelity: float | None
    word: GradeWord | None = None
    """The grade of the fidelity."""
    claims: tuple[ReadClaim, ...] = ()
    """With the chance that each is true; for requests that want it, of an NLA that can say it."""


class Outcome(NamedTuple):
    """How a place ended: its samples, or why there are none."""

    place: int
    samples: tuple[ScoredSample, ...] = ()
    error: str | None = None


class Ticket(NamedTuple):
    """Which row of which job."""

    job: Job
    place: int
    sample: int


class Job:
    """One request in the queue, and what it has not been told yet.

    Attributes:
        number: by order of arrival.
        watched: whether the words are wanted while they are written.
        judged: whether the confidence of each claim is wanted.
        active: rows in the batch.
        loaded, started: whether its rows may be taken; whether one has been.
        closed: nobody waits for it any more.
    """

    def __init__(
        self,
        number: int,
        client: Client,
        num_rows: int,
        notify: Callable[[], None],
        watched: bool = False,
        judged: bool = False,
    ) -> None:
        self.number, self.client, self.num_rows = number, client, num_rows
        self.watched, self.judged = watched, judged
        self.waiting: deque[tuple[int, int]] = deque()
        self.active = 0
        self.loaded = False
        self.started = False
        self.closed = False
        self.vectors: Any = ()
        self.sampling = Sampling()
        self.repeats = 1
        self._notify = notify
        self._progress: dict[int, str] = {}
        self._outcomes: list[Outcome] = []
        self._samples: dict[int, dict[int, ScoredSample]] = {}
        self._over: set[int] = set()
        self._failure: str | None = None
        self._lock = threading.Lock()

    def load(self, vectors_ND: Any, sampling: Sampling, order: Sequence[int]) -> None:
        """Say what is to be written. At temperature 0 one row stands for all samples."""
        self.vectors, self.sampling = vectors_ND, sampling
        distinct = 1 if sampling.temperature == 0 else sampling.samples
        self.repeats = sampling.samples // distinct
        self.waiting.extend((place, sample) for place in order for sample in range(distinct))
        self.loaded = True

    @property
    def num_unfinished(self) -> int:
        """Rows that wait or are written; before it is started, those it will have."""
        return len(self.waiting) + self.active if self.loaded else self.num_rows

    def tell_progress(self, place: int, raw_text: str) -> None:
        """Words so far; a reader who is slow sees only the newest. The last are told, too, before
        the outcome."""
        with self._lock:
            self._progress[place] = raw_text
        self._notify()

    def tell_sample(self, ticket: Ticket, sample: ScoredSample) -> None:
        """A row has been scored; with its last row a place is finished."""
        with self._lock:
            rows = self._samples.setdefault(ticket.place, {})
            rows[ticket.sample] = sample
            if len(rows) * self.repeats < self.sampling.samples:
                return
            found = tuple(rows[number] for number in sorted(rows)) * self.repeats
            self._end(Outcome(ticket.place, found))
        self._notify()

    def tell_error(self, place: int, message: str) -> None:
        """A place has failed; the others go on."""
        with self._lock:
            self.waiting = deque(pair for pair in self.waiting if pair[0] != place)
            self._progress.pop(place, None)
            self._end(Outcome(place, error=message))
        self._notify()

    def fail(self, message: str) -> None:
        """Nothing more will come."""
        with self._lock:
            self._failure = message
        self._notify()

    def news(self) -> tuple[dict[int, str], list[Outcome], str | None]:
        """What has not been told yet: words by place, ended places, and a failure of the whole."""
        with self._lock:
            progress, self._progress = self._progress, {}
            outcomes, self._outcomes = self._outcomes, []
            return progress, outcomes, self._failure

    def _end(self, outcome: Outcome) -> None:
        self._samples.pop(outcome.place, None)
        # Of several samples more than one may fail; a place ends once.
        if outcome.place not in self._over:
            self._over.add(outcome.place)
            self._outcomes.append(outcome)


class FairQueue:
    """The jobs, and which of their rows is next.

    Args:
        max_rows: rows of the batch.
        max_requests: jobs that may be open.
        max_unfinished_rows: rows of all open jobs that are not finished. Beyond it a client may
            have no more than its share, so that large requests shut nobody out.
    """

    def __init__(self, max_rows: int, max_requests: int, max_unfinished_rows: int) -> None:
        self.max_rows, self.max_requests = max_rows, max_requests
        self.max_unfinished_rows = max_unfinished_rows
        self.reserved = max_rows // RESERVED
        self.changed = threading.Condition()
        self.row_seconds = 1.0
        """How long a row takes from its entry to its end, of late."""
        self._clients: OrderedDict[Client, deque[Job]] = OrderedDict()
        self._active: Counter[Client] = Counter()
        self._active_at: Counter[str] = Counter()
        self._open: dict[int, Job] = {}
        self._count = 0
        self._closing: str | None = None

    # -- from requests -----------------------------------------------------------------------------
    def open(
        self,
        client: Client,
        num_rows: int,
        notify: Callable[[], None] = lambda: None,
        watched: bool = False,
        judged: bool = False,
    ) -> Job:
        """A place in the queue for a request of `num_rows` rows (0: a call without any).

        Raises:
            Busy: too many requests or rows wait already.
            Unavailable: nothing is taken in any more.
        """
        with self.changed:
            if self._closing is not None:
                raise Unavailable(self._closing)
            self._refuse_requests(client)
            if num_rows:
                self._refuse_rows(client, num_rows)
            self._count += 1
            job = Job(self._count, client, num_rows, notify, watched, judged)
            self._open[job.number] = job
            return job

    def start(self, job: Job, vectors_ND: Any, sampling: Sampling, order: Sequence[int]) -> None:
        """Let a job's rows into the queue, places in this order."""
        with self.changed:
            if job.closed:
                return
            job.load(vectors_ND, sampling, order)
            self._clients.setdefault(job.client, deque()).append(job)
            self.changed.notify_all()

    def close(self, job: Job) -> None:
        """Nobody waits for a job any more: its rows leave at the next step."""
        with self.changed:
            job.closed = True
            job.waiting.clear()
            self._open.pop(job.number, None)
            self._forget(job)
            self.changed.notify_all()

    def position(self, job: Job) -> int:
        """How many requests without a row come before a job; 0 once it has started."""
        with self.changed:
            if job.started or job.closed:
                return 0
            waiting = [each for each in self._open.values() if each.waiting and not each.started]
            return 1 + sum(each.number < job.number for each in waiting)

    def stop(self, message: str, fail_open: bool = False) -> None:
        """Take nothing in any more; `fail_open`: and end what is there."""
        with self.changed:
            self._closing = message
            jobs = list(self._open.values()) if fail_open else []
            self.changed.notify_all()
        for job in jobs:
            job.fail(message)

    # -- from the engine ---------------------------------------------------------------------------
    def take(self, num_active: int) -> list[Ticket]:
        """The next rows, as many as the batch has room for beside `num_active`."""
        found: list[Ticket] = []
        with self.changed:
            while num_active + len(found) < self.max_rows:
                free = self.max_rows - num_active - len(found)
                ticket = self._next(only_new=free <= self.reserved)
                if ticket is None:
                    break
                found.append(ticket)
        return found

    def left(self, ticket: Ticket, seconds: float | None = None) -> None:
        """A row is not in the batch any more; `seconds`: what it took, if it came to its end."""
        with self.changed:
            ticket.job.active -= 1
            self._count_active(ticket.job.client, -1)
            if seconds is not None:
                self.row_seconds += 0.1 * (seconds - self.row_seconds)

    @property
    def num_waiting(self) -> int:
        """Rows that are not in the batch yet."""
        return sum(len(job.waiting) for job in list(self._open.values()))

    @property
    def num_unfinished(self) -> int:
        """Rows that wait or are written, or will be."""
        return sum(job.num_unfinished for job in list(self._open.values()))

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    def _next(self, only_new: bool) -> Ticket | None:
        """A row of the address and the client with the fewest in the batch; equals take turns."""
        for client in sorted(self._clients, key=self._burden):
            job = self._next_job(self._clients[client], only_new)
            if job is not None:
                self._clients.move_to_end(client)
                self._count_active(client, 1)
                place, sample = job.waiting.popleft()
                job.active, job.started = job.active + 1, True
                if not job.waiting:
                    self._forget(job)
                return Ticket(job, place, sample)
        return None

    def _burden(self, client: Client) -> tuple[int, int]:
        return self._active_at[client.address], self._active[client]

    def _count_active(self, client: Client, change: int) -> None:
        _count(self._active, client, change)
        _count(self._active_at, client.address, change)

    @staticmethod
    def _next_job(jobs: deque[Job], only_new: bool) -> Job | None:
        able = [job for job in jobs if job.waiting and not (only_new and job.active)]
        if not able:
            return None
        job = min(able, key=lambda each: each.active)
        jobs.remove(job)
        jobs.append(job)
        return job

    def _forget(self, job: Job) -> None:
        jobs = self._clients.get(job.client)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._clients[job.client]

    def _refuse_requests(self, client: Client) -> None:
        """Raise `Busy` where too many requests are open: of all, of an address, of a client."""
        jobs = self._open.values()
        counts = {
            "": (len(self._open), self.max_requests),
            " from this address": (
                sum(job.client.address == client.address for job in jobs),
                max(1, int(self.max_requests * ADDRESS_SHARE)),
            ),
            " of this client": (
                sum(job.client == client for job in jobs),
                max(1, int(self.max_requests * CLIENT_SHARE)),
            ),
        }
        for whose, (found, most) in counts.items():
            if found >= most:
                self._refuse(f"{found} requests{whose} are open")

    def _refuse_rows(self, client: Client, num_rows: int) -> None:
        """Raise `Busy` where too many rows are unfinished and this client has its share."""
        unfinished = self.num_unfinished
        if not unfinished or unfinished + num_rows <= self.max_unfinished_rows:
            return
        clients = {job.client for job in self._open.values() if job.num_unfinished} | {client}
        own = sum(job.num_unfinished for job in self._open.values() if job.client == client)
        if own + num_rows > self.max_unfinished_rows // len(clients):
            self._refuse(f"{unfinished} explanations are asked for already")

    def _refuse(self, why: str) -> None:
        rounds = 1 + self.num_waiting / self.max_rows
        retry_after = min(LONGEST_RETRY_S, max(1, math.ceil(rounds * self.row_seconds)))
        raise Busy(f"The server is busy: {why}. Try again in {retry_after} s.", retry_after)


def _count(counter: Counter[K], key: K, change: int) -> None:
    counter[key] += change
    if counter[key] <= 0:
        del counter[key]


def now() -> float:
    """Seconds on a clock that never goes back."""
    return time.monotonic()
