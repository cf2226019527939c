"""The body of a request: how large it may be, how long it may take, and JSON read from it.

A route's bound follows from what it can use at most, so that nothing that is parsed takes the event
loop, or memory, for long. Who has not shown the secret gets much less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import pydantic
import pydantic_core
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from .clients import client_of
from .queue import now
from .settings import LIMITS, Settings

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
SCOPE_KEY = "nlakit.body"

KIB, MIB = 2**10, 2**20
STRANGER_BYTES = 64 * KIB
"""Without the secret: enough to be told what is wrong with a small request."""
OTHER_BYTES = 64 * KIB
PROMPT_BYTES = MIB
"""65 536 characters as JSON escapes, twelve bytes each, and what stands around them."""
READING_BYTES = 8 * MIB
NUMBER_BYTES = 32
"""A number of a vector as JSON, with its comma and blanks."""
VECTORS = {"/score": 1, "/compare": 2, "/describe": LIMITS.max_describe_batch}
VECTORS["/v1/describe"] = VECTORS["/describe"]
READINGS = "/v1/readings"
PROMPTS = (
    *("/tokenize", "/completion", "/explain", "/extract"),
    *("/v1/explain", "/v1/extract", "/v1/steer", "/v1/chat", "/v1/lens"),
    *("/v1/latents/features", "/v1/latents/witness", "/v1/latents/steer"),
)

FIRST_S = 4.0
"""Time for a body, whatever its size."""
BYTES_PER_S = 256 * KIB
"""Beyond that, a larger one may take its time at this rate."""
BUSY_BYTES = 256 * MIB
"""Bodies that are held at once; one that is alone may be larger."""

CONTAINERS = 300_000
"""Arrays and objects: each takes a hundred times its two bytes when it is parsed."""
VALUES = 1_000_000
ROOM = 1024
"""Beside a route's vectors: its other fields, and unknown ones."""
INLINE_BYTES = 64 * KIB
"""So much is parsed faster than another thread could be asked to."""


class TooLarge(Exception):
    """A body beyond its bound."""


class TooSlow(Exception):
    """A body that did not arrive in time."""


class BodiesFull(Exception):
    """Too many bytes of bodies are held already."""


BODY_PATHS = frozenset((*VECTORS, *PROMPTS, READINGS))


def bound_of(path: str, d_model: int, settings: Settings) -> int:
    """The most bytes that a route's body may have."""
    if path in VECTORS:
        most = VECTORS[path] * d_model * NUMBER_BYTES + 2 * OTHER_BYTES
    elif path in PROMPTS:
        most = PROMPT_BYTES
    else:
        most = READING_BYTES if path == READINGS else OTHER_BYTES
    return min(most, settings.max_body_bytes)


class Bodies:
    """All bodies that are held at present."""

    def __init__(self, busy_bytes: int = BUSY_BYTES) -> None:
        self.busy_bytes = busy_bytes
        self.held = 0

    async def read(self, receive: Receive, most: int) -> HeldBody:
        """A whole body.

        Raises:
            TooLarge: more than `most` bytes.
            TooSlow: it does not come.
            BodiesFull: others hold too much.
            ClientDisconnect: the client left.
        """
        parts: list[bytes] = []
        size, started, more = 0, now(), True
        try:
            while more:
                message = await _next(receive, started + FIRST_S + size / BYTES_PER_S)
                part = message.get("body", b"")
                size, more = size + len(part), message.get("more_body", False)
                self.held += len(part)
                parts.append(part)
                if size > most:
                    raise TooLarge
                if self.held > self.busy_bytes and self.held > size:
                    raise BodiesFull
        except BaseException:
            self.held -= size
            raise
        return HeldBody(self, b"".join(parts))


class HeldBody:
    """One of them; a route takes it from its request's scope, and releases it once it is parsed."""

    def __init__(self, bodies: Bodies, raw: bytes) -> None:
        self._bodies, self.raw = bodies, raw

    def release(self) -> None:
        """Forget it; may be called twice."""
        self._bodies.held -= len(self.raw)
        self.raw = b""

    @staticmethod
    def of(request: Request) -> HeldBody:
        """The body of a request, which `security.Gate` has read."""
        return request.scope[SCOPE_KEY]


async def _next(receive: Receive, deadline: float) -> Message:
    try:
        async with asyncio.timeout(max(0.0, deadline - now())):
            message = await receive()
    except TimeoutError as error:
        raise TooSlow from error
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


# -- JSON ------------------------------------------------------------------------------------------
class JsonBody(Generic[ModelT]):
    """A dependency: the body as a record, refused in FastAPI's words.

    FastAPI's own reading makes Python objects of a whole body before it looks at any, and lets a
    deep one end in a RecursionError.

    Args:
        containers, values: the most arrays and objects, and the most values, by `d_model`.
    """

    def __init__(
        self,
        model: type[ModelT],
        containers: Callable[[int], int] = lambda _: CONTAINERS,
        values: Callable[[int], int] = lambda _: VALUES,
    ) -> None:
        self.model, self.containers, self.values = model, containers, values

    async def __call__(self, request: Request) -> ModelT:
        """Read it. Raises `RequestValidationError`."""
        kind = media_type(request)
        if kind != "application/json" and not kind.endswith("+json"):
            raise RequestValidationError([_problem("model_attributes_type", NOT_AN_OBJECT)])
        body = HeldBody.of(request)
        try:
            return await in_turn(request, body, self.parse)
        finally:
            body.release()

    def parse(self, raw: bytes, d_model: int) -> ModelT:
        """The record. Raises `RequestValidationError`."""
        if raw.count(b"[") + raw.count(b"{") > self.containers(d_model):
            raise RequestValidationError([_problem("too_long", "Too many arrays and objects")])
        if raw.count(b",") > self.values(d_model):
            raise RequestValidationError([_problem("too_long", "Too many values")])
        return self.record(raw)

    def record(self, raw: bytes) -> ModelT:
        """The record, however large. Raises `RequestValidationError`."""
        try:
            return self.model.model_validate_json(raw or b"null")
        except pydantic.ValidationError as error:
            raise RequestValidationError(_problems(raw, error)) from error


async def in_turn(request: Request, body: HeldBody, parse: Callable[[bytes, int], T]) -> T:
    """`parse(raw, d_model)`; of a large body apart from the event loop."""
    service = request.app.state.service
    work = partial(parse, body.raw, service.nla.card.d_model)
    if len(body.raw) <= INLINE_BYTES:
        return work()
    return await service.parsing.run(client_of(request), work)


NOT_AN_OBJECT = "Input should be a valid dictionary or object to extract fields from"


def vector_body(model: type[ModelT], num_vectors: int) -> JsonBody[ModelT]:
    """A body of vectors and a few other fields."""
    text = LIMITS.max_description_chars
    return JsonBody(
        model,
        lambda _: num_vectors + text + ROOM,
        lambda d_model: num_vectors * d_model + text + ROOM,
    )


def media_type(request: Request) -> str:
    """The type of the body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def syntax_error(raw: bytes) -> dict[str, Any] | None:
    """What is wrong with a small body that should be JSON; None: nothing."""
    try:
        pydantic_core.from_json(raw)
    except ValueError as error:
        return _malformed(_place(raw, str(error)))
    return None


def _problems(raw: bytes, error: pydantic.ValidationError) -> list[dict[str, Any]]:
    if raw.strip() == b"":
        return [_problem("missing", "Field required")]
    found = error.errors(include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return [_malformed(_place(raw, found[0]["msg"]))]
    return [{**each, "loc": ("body", *each["loc"])} for each in found]


def _place(raw: bytes, message: str) -> int:
    """The byte that a message of the parser names by line and column."""
    words = message.replace(",", " ").split()
    numbers = [int(word) for word in words if word.isdecimal()][-2:]
    if len(numbers) < 2:
        return 0
    lines = raw.split(b"\n", numbers[0])[: numbers[0] - 1]
    return sum(len(line) + 1 for line in lines) + numbers[1] - 1


def _malformed(place: int) -> dict[str, Any]:
    return {
        "type": "json_invalid",
        "loc": ("body", place),
        "msg": "JSON decode error",
        "input": {},
    }


def _problem(kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ("body",), "msg": message, "input": None}
