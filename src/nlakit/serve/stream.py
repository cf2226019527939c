"""From a job in the queue to a client: all at once, or frame by frame as server-sent events.

However a request ends (last frame, client gone, deadline, error) its job is closed, so that its
rows leave the batch at the next step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .queue import FairQueue, Job, Outcome, Unavailable, now
from .settings import Settings

QUEUED_POLL_S = 0.5
STALLED_S = 30
"""A client that does not read is cut off so long after the deadline."""
DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"


class Progress(NamedTuple):
    """The words of a place so far."""

    place: int
    raw_text: str


class Queued(NamedTuple):
    """How many requests are served before this one begins, itself included."""

    position: int


class Beat(NamedTuple):
    """Nothing to say for a while."""


Event = Progress | Queued | Beat | Outcome


class Deadline(Exception):
    """A request took longer than the server allows."""


class ClientGone(Exception):
    """Nobody reads the answer any more."""


class Line:
    """One request's place in the queue, as the event loop sees it.

    Used as `with Line(...) as line`; leaving closes the job.
    """

    def __init__(self, queue: FairQueue, settings: Settings, client: str) -> None:
        self._queue, self._settings, self._client = queue, settings, client
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.deadline = now() + settings.request_deadline_s
        self.asked = now()
        self.job: Job

    def open(self, num_rows: int, watched: bool = False, judged: bool = False) -> Line:
        """Take a place. Raises `Busy` or `Unavailable`."""
        self.job = self._queue.open(self._client, num_rows, self._ring, watched, judged)
        return self

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the place back; may be called twice."""
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
                yield Beat()
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


async def collect(line: Line, num_places: int, request: Request) -> list[Outcome]:
    """All outcomes by place.

    Raises:
        Deadline: it took too long.
        Unavailable: the engine stopped.
        ClientGone: the client left.
    """

    async def gather() -> list[Outcome]:
        events = line.events(num_places)
        return [event async for event in events if isinstance(event, Outcome)]

    outcomes = await unless_gone(gather(), request)
    if num_places and all(each.error for each in outcomes):
        if (failure := line.job.news()[2]) is not None:
            raise Unavailable(failure)
        if now() >= line.deadline:
            raise Deadline(str(outcomes[0].error))
    return sorted(outcomes, key=lambda outcome: outcome.place)


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

    def __init__(self, frames: AsyncIterator[str], line: Line) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers)
        self._line = line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._line.deadline - now() + STALLED_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            return
        finally:
            self._line.close()


def frame(record: dict[str, Any]) -> str:
    """One frame: a line of JSON."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n"


async def frames_of(
    events: AsyncIterator[Event], render: Callable[[Event], str], first_words: Callable[[], None]
) -> AsyncIterator[str]:
    """Frames of a job's events and `[DONE]`.

    Args:
        first_words: called once, before the first words or the first result.
    """
    told = False
    async for event in events:
        if not told and isinstance(event, Progress | Outcome):
            first_words()
            told = True
        text = render(event)
        if text:
            yield text
    yield DONE
