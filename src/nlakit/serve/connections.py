"""Connections, below HTTP: how many there may be, and how long one may keep others waiting.

uvicorn gives a connection all the time it likes to send a head, to leave an answer unread, or to
say nothing at all. Here each of these ends: a head that does not come, a reader who stalls, and,
when all places are taken, the connection that has rested longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .settings import Settings

try:
    import resource
except ModuleNotFoundError:  # Windows has no limit to ask for
    resource = None

MOST, FEWEST = 4096, 8
"""Connections, where descriptors allow it, and where they do not."""
RESERVED_DESCRIPTORS = 64
"""For the database, the page's files and threads that wake the loop."""
WANTED_DESCRIPTORS = 2 * MOST
BACKLOG = 128
LINGER_S = 2.0
"""How long a client may go on sending what nobody reads, so that it sees the answer first."""
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: 48\r\n\r\n"
    b'{"detail":"The server has too many connections"}'
)


class Connection(H11Protocol):
    """One connection.

    Args:
        settings: of the server: `head_s`, `rest_s`, `stall_s`.
        most: connections there may be.
    """

    def __init__(self, settings: Settings, most: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings, self._most = settings, most
        self._since = self.loop.time()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._lingers = False

    @property
    def rests(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    # -- asyncio.Protocol --------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._limit("head", self._settings.head_s)
        if len(self.connections) > self._most:
            self._take_place()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        if self.rests and "head" not in self._timers:
            self._limit("head", self._settings.head_s)
        super().data_received(data)
        if not self.rests:
            self._unlimit("head")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit("stall", self._settings.stall_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unlimit("stall")

    # -- H11Protocol -------------------------------------------------------------------------------
    def on_response_complete(self) -> None:
        is_unread = self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        self._since = self.loop.time()
        if is_unread and not self.transport.is_closing():
            self._linger()
        if self.transport.is_closing():
            self._limit("stall", self._settings.stall_s)

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun already
            self.transport.close()

    # -- limits ------------------------------------------------------------------------------------
    def _limit(self, name: str, seconds: float) -> None:
        self._unlimit(name)
        self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _unlimit(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _linger(self) -> None:
        """The request's body was not wanted: end, once the client had a chance to read why."""
        self._lingers = True
        self._unset_keepalive_if_required()
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._limit("linger", LINGER_S)

    def _take_place(self) -> None:
        """End the connection that has rested longest; without one, this one."""
        ours = (each for each in self.connections if isinstance(each, Connection))
        resting = [each for each in ours if each is not self and each.rests]
        if resting:
            longest = min(resting, key=lambda each: each._since)
            self.connections.discard(longest)
            longest.transport.abort()
            return
        self.transport.write(BUSY)
        self.transport.close()
        self._limit("stall", LINGER_S)


class Room(NamedTuple):
    """What the process has descriptors for.

    Attributes:
        connections: that may be open.
        backlog: that may be accepted before the first of them is looked at.
    """

    connections: int
    backlog: int


def room_for(descriptors: int, num_open: int) -> Room:
    """With so many descriptors, of which some are open already."""
    backlog = max(1, min(BACKLOG, descriptors // 8))
    free = descriptors - num_open - RESERVED_DESCRIPTORS - backlog
    return Room(min(MOST, max(FEWEST, free)), backlog)


def make_room() -> Room:
    """Raise the limit of descriptors as far as it is wanted and allowed."""
    if resource is None:
        return Room(MOST, BACKLOG)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Room(MOST, BACKLOG)
    most = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return room_for(max(soft, most), num_descriptors())


def num_descriptors() -> int:
    """Descriptors that are open now."""
    listing = Path("/dev/fd")
    return len(list(listing.iterdir())) if listing.is_dir() else 32


def uvicorn_config(app: ASGIApp, settings: Settings, room: Room | None = None) -> uvicorn.Config:
    """How the application is served."""
    room = room or make_room()
    protocol: Callable[..., Any] = partial(Connection, settings, room.connections)
    return uvicorn.Config(
        app,
        http=protocol,  # pyright: ignore[reportArgumentType]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_keep_alive=settings.rest_s,  # pyright: ignore[reportArgumentType]
        backlog=room.backlog,
    )
