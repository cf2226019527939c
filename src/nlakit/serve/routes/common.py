"""What all routes share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import pydantic
from fastapi import Depends, Request, Response

from nlakit.serve.clients import Client
from nlakit.serve.queue import Outcome
from nlakit.serve.schemas import Problem
from nlakit.serve.security import require_secret
from nlakit.serve.service import Service
from nlakit.serve.stream import (
    PING,
    Event,
    EventStream,
    Heartbeat,
    OpenJob,
    Progress,
    Queued,
    frame,
    frames_of,
    now,
)

SECRET = [Depends(require_secret)]
BINARY = "application/octet-stream"
BINARY_CONTENT = {"schema": {"type": "string", "format": "binary"}}
REFERENCE = "#/components/schemas/"
BODY_MODELS: dict[str, type[pydantic.BaseModel]] = {}
"""What routes read themselves, so that FastAPI does not know of it: see `openapi`."""


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


Served = Annotated[Service, Depends(service_of)]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the errors that a route can answer, those of every route included."""
    return {
        status: INVALID if status == 422 else {"model": Problem, "description": MEANINGS[status]}
        for status in statuses
    }


MEANINGS = {
    400: "The request cannot be read: no text, a position outside it, a vector of another length.",
    401: "X-SECRET-KEY header required",
    403: "Invalid secret key, or an origin that is not allowed",
    404: "There is no such thing.",
    413: "The body is too large.",
    415: "The body is neither JSON nor safetensors.",
    429: "Busy; Retry-After says when to ask again.",
    408: "The body did not arrive in time.",
    503: "The engine has stopped or the server is shutting down; Retry-After.",
    504: "Not finished within the server's deadline.",
}
GUARDED = (400, 401, 403)
BODY_CALL = (*GUARDED, 408, 413, 422, 429, 503)
MODEL_CALL = (*BODY_CALL, 504)
INVALID = {
    "description": "The body has other fields than it should: FastAPI's list",
    "content": {"application/json": {"schema": {"$ref": REFERENCE + "HTTPValidationError"}}},
}


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
        self, service: Service, job: OpenJob, events: AsyncIterator[Event]
    ) -> AsyncIterator[bytes]:
        """The whole stream; records are made apart from the event loop."""
        if self._head is not None:
            yield frame(self._head)

        def first_words() -> None:
            service.metrics.first_frame.observe(now() - job.asked)

        async def write(event: Event) -> bytes:
            if isinstance(event, Outcome) and event.error is None:
                return await service.writing.run(job.client, partial(self.final, event))
            return self.write(event)

        async for each in frames_of(events, write, first_words):
            yield each

    def write(self, event: Event) -> bytes:
        """One event as a frame or a comment."""
        if isinstance(event, Progress):
            return frame({**self._key(event.place), "text": event.raw_text, "done": False})
        if isinstance(event, Queued):
            if not self._tell_queue:
                return f": queued {event.position}\n\n".encode()
            record = {"position_in_queue": event.position, "done": False, "queued": True}
            return frame(record)
        if isinstance(event, Heartbeat):
            return PING
        assert event.error is not None
        return frame({"error": event.error, **self._key(event.place)})

    def final(self, outcome: Outcome) -> bytes:
        """The frame of a place that has ended well."""
        return frame(self._final(outcome))


def stream(
    service: Service, job: OpenJob, frames: Frames, num_places: int, stack: ExitStack
) -> EventStream:
    """A response that takes over the job: it closes it, so the caller must not."""
    response = EventStream(frames.of(service, job, job.events(num_places)), job)
    stack.pop_all()
    return response


async def answer(
    service: Service, client: Client, make: Callable[[], pydantic.BaseModel]
) -> Response:
    """A record as JSON, made and written apart from the event loop."""
    work = lambda: make().model_dump_json().encode("utf-8", "replace")  # noqa: E731
    return Response(await service.writing.run(client, work), media_type="application/json")


def takes(model: type[pydantic.BaseModel], binary: bool = False) -> dict[str, Any]:
    """OpenAPI of a body that a route reads itself (`bodies.JsonBody`)."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": REFERENCE + model.__name__}}}
    if binary:
        content[BINARY] = BINARY_CONTENT
    BODY_MODELS[model.__name__] = model
    return {"requestBody": {"required": True, "content": content}}
