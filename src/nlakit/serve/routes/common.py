"""What all routes share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import Depends, Request

from nlakit.serve.queue import Outcome
from nlakit.serve.schemas import Problem
from nlakit.serve.security import require_secret
from nlakit.serve.service import Service
from nlakit.serve.stream import (
    Beat,
    Event,
    EventStream,
    Line,
    Progress,
    Queued,
    frame,
    frames_of,
    now,
)

SECRET = [Depends(require_secret)]


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


Served = Annotated[Service, Depends(service_of)]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the errors that a route can answer, those of every route included."""
    return {status: {"model": Problem, "description": MEANINGS[status]} for status in statuses}


MEANINGS = {
    400: "The request cannot be read: no text, a position outside it, a vector of another length.",
    401: "X-SECRET-KEY header required",
    403: "Invalid secret key, or an origin that is not allowed",
    404: "There is no such thing.",
    413: "The body is too large.",
    415: "The body is neither JSON nor safetensors.",
    429: "Busy; Retry-After says when to ask again.",
    503: "The engine has stopped or the server is shutting down; Retry-After.",
    504: "Not finished within the server's deadline.",
}
GUARDED = (400, 401, 403)
MODEL_CALL = (*GUARDED, 413, 429, 503, 504)


def sse(description: str) -> dict[str, Any]:
    """OpenAPI of an answer that is JSON, or with `stream` server-sent events."""
    return {"description": description, "content": {"text/event-stream": {"schema": SSE_EVENT}}}


SSE_EVENT = {
    "type": "object",
    "description": "One frame: a line of JSON, the last `[DONE]`. No event names.",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


class Frames:
    """The frames of one stream: how each event is written.

    Args:
        head: the first frame, or None.
        key: what the place of a progress frame is called, and its value by place.
        final: the record of an ended place.
        tell_queue: whether `queued` frames are understood; else they are comments.
    """

    def __init__(
        self,
        head: dict[str, Any] | None,
        key: Callable[[int], dict[str, Any]],
        final: Callable[[Outcome], dict[str, Any]],
        tell_queue: bool,
    ) -> None:
        self._head, self._key, self._final, self._tell_queue = head, key, final, tell_queue

    async def of(
        self, service: Service, line: Line, events: AsyncIterator[Event]
    ) -> AsyncIterator[str]:
        """The whole stream."""
        if self._head is not None:
            yield frame(self._head)

        def first_words() -> None:
            service.metrics.first_frame.observe(now() - line.asked)

        async for text in frames_of(events, self.write, first_words):
            yield text

    def write(self, event: Event) -> str:
        """One event as a frame or a comment."""
        if isinstance(event, Progress):
            return frame({**self._key(event.place), "text": event.raw_text, "done": False})
        if isinstance(event, Queued):
            if not self._tell_queue:
                return f": queued {event.position}\n\n"
            record = {"position_in_queue": event.position, "done": False, "queued": True}
            return frame(record)
        if isinstance(event, Beat):
            return ": ping\n\n"
        if event.error is not None:
            return frame({"error": event.error, **self._key(event.place)})
        return frame(self._final(event))


def stream(
    service: Service, line: Line, frames: Frames, num_places: int, stack: ExitStack
) -> EventStream:
    """A response that takes over the job: it closes it, so the caller must not."""
    response = EventStream(frames.of(service, line, line.events(num_places)), line)
    stack.pop_all()
    return response
