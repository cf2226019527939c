"""From a job in the queue to a client: all at once, or frame by frame as server-sent events.

However a request ends (last frame, client gone, deadline, error) its job is closed, so that its
rows leave the batch at the next step.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .clients import Client
from .queue import FairQueue, Job, Outcome, Unavailable, now
from .settings import Settings
from .workers import Workers

T = TypeVar("T")

QUEUED_POLL_S = 0.5
STALLED_S = 30
"""A client that does not read is cut off so long after the deadline."""
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
JSON: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}


class Progress(NamedTuple):
    """The words of a place so far."""

    place: int
    raw_text: str


class Queued(NamedTuple):
    """How many requests are served before this one begins, itself included."""

    position: int


class Heartbeat(NamedTuple):
    """Nothing to say for a while."""


Event = Progress | Queued | Heartbeat | Outcome


class Deadline(Exception):
    """A request took longer than the server allows."""


class ClientGone(Exception):
    """Nobody reads the answer any more."""


class OpenJob:
    """One request's job in the queue, as the event loop sees it.

    Used as `with OpenJob(...).open(...) as job`; leaving closes it.
    """

    def __init__(self, queue: FairQueue, settings: Settings, client: Client) -> None:
        self._queue, self._settings, self.client = queue, settings, client
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.deadline = now() + settings.request_deadline_s
        self.asked = now()
        self.job: Job

    def open(self, num_rows: int, watched: bool = False, judged: bool = False) -> OpenJob:
        """Enter the queue. Raises `Busy` or `Unavailable`."""
        self.job = self._queue.open(self.client, num_rows, self._ring, watched, judged)
        return self

    def __enter__(self) -> OpenJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the queue; may be called twice."""
        self._queue.close(self.job)

    async def events(self, num_places: int) -> AsyncIterator[Event]:
        """What happens to the job until each of its places has ended."""
        open_places = set(range(num_places))
        last_sent, position, looked = now(), -1, False
        while open_places:
            self._news.clear()
            progress, outcomes, failure = self.job.news()
            for place, text in progress.items():
                yield Progress(place, text)
            for outcome in outcomes:
                open_places.discard(outcome.place)
                yield outcome
            failure = failure or self._overdue()
            if failure is not None:
                self.close()
                for place in sorted(open_places):
                    yield Outcome(place, error=failure)
                return
            if progress or outcomes:
                last_sent = now()
            # The first look comes before the engine had a chance: that is no queue.
            new = self._queue.position(self.job) if looked else 0
            looked = True
            if new not in (0, position):
                position, last_sent = new, now()
                yield Queued(new)
            elif now() - last_sent >= self._settings.heartbeat_s:
                last_sent = now()
                yield Heartbeat()
            if open_places:
                await self._sleep()

    def _overdue(self) -> str | None:
        if now() < self.deadline:
            return None
        return f"Not finished within {self._settings.request_deadline_s:g} s. Ask for less at once."

    async def _sleep(self) -> None:
        """Until there is news, or it is time to look again."""
        waits = [self._settings.heartbeat_s, max(0.01, self.deadline - now())]
        if not self.job.started:
            waits.append(QUEUED_POLL_S)
        try:
            await asyncio.wait_for(self._news.wait(), min(waits))
        except TimeoutError:
            return

    def _ring(self) -> None:
        """Called by the engine's thread; the loop may be closed already when the server ends."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)


async def collect(
    job: OpenJob,
    num_places: int,
    request: Request,
    record: Callable[[Outcome], T],
    workers: Workers,
) -> list[T]:
    """The records of all outcomes by place, each made by `workers` as soon as it is there.

    Raises:
        Deadline: it took too long.
        Unavailable: the engine stopped.
        ClientGone: the client left.
    """
    outcomes: list[Outcome] = []
    records: dict[int, T] = {}

    async def keep(outcome: Outcome) -> None:
        records[outcome.place] = await workers.run(job.client, partial(record, outcome))

    async def gather() -> None:
        async with asyncio.TaskGroup() as making:
            async for event in job.events(num_places):
                if isinstance(event, Outcome):
                    outcomes.append(event)
                    making.create_task(keep(event))

    try:
        await unless_gone(gather(), request)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    _raise_common_failure(job, outcomes)
    return [records[place] for place in sorted(records)]


def _raise_common_failure(job: OpenJob, outcomes: list[Outcome]) -> None:
    """Where all places failed of one thing, the request did."""
    if not outcomes or not all(each.error for each in outcomes):
        return
    if (failure := job.job.news()[2]) is not None:
        raise Unavailable(failure)
    if now() >= job.deadline:
        raise Deadline(str(outcomes[0].error))


async def unless_gone(work: Any, request: Request) -> Any:
    """What `work` returns, given up when the client leaves.

    Raises:
        ClientGone: the client left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events of one job, which is closed however the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], job: OpenJob) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers)
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._job.deadline - now() + STALLED_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            return
        finally:
            self._job.close()


def frame(record: dict[str, Any]) -> bytes:
    """One frame: a line of JSON, whatever the record holds."""
    try:
        text = json.dumps(record, **JSON)
    except ValueError:  # NaN or infinite: no number in JSON
        text = json.dumps(without_nan(record), **JSON)
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def without_nan(value: Any) -> Any:
    """The value, what JSON cannot hold being null."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def frames_of(
    events: AsyncIterator[Event],
    render: Callable[[Event], Awaitable[bytes]],
    first_words: Callable[[], None],
) -> AsyncIterator[bytes]:
    """Frames of a job's events and `[DONE]`.

    Args:
        first_words: called once, before the first words or the first result.
    """
    told = False
    try:
        async for event in events:
            if not told and isinstance(event, Progress | Outcome):
                first_words()
                told = True
            yield await render(event)
    except Unavailable as error:
        yield frame({"error": str(error)})
    yield DONE
