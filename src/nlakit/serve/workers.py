"""Threads for what would hold up the event loop: each kind of work has its own, so that none waits
for another kind, and clients take turns at them.

All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .clients import Client, Turns
from .queue import Busy, Unavailable

T = TypeVar("T")
BUSY_RETRY_S = 2
CLIENT_SHARE = 4
"""One client may have one in so many of the things that may wait."""


class Workers:
    """Some threads that do one kind of work.

    Args:
        name: the work; said when it is busy.
        max_waiting: pieces of work that may wait.
    """

    def __init__(self, name: str, num_threads: int = 1, max_waiting: int = 256) -> None:
        self.name, self.num_threads, self.max_waiting = name, num_threads, max_waiting
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix=f"nlakit-{name}")
        self._turns: Turns[asyncio.Future[None]] = Turns()
        self._num_running = 0

    async def run(self, client: Client, work: Callable[[], T], at_most_s: float | None = None) -> T:
        """Do a piece of a client's work in its turn.

        Args:
            at_most_s: how long to wait; then what has not begun is given up.

        Raises:
            Busy: too much waits already, of this client or of all.
            Unavailable: it took longer than `at_most_s`, or the server is shutting down.
        """
        try:
            async with asyncio.timeout(at_most_s):
                await self._turn(client)
                return await asyncio.wrap_future(self._begin(work))
        except TimeoutError as error:
            raise Unavailable(f"{self.name} took longer than {at_most_s:g} s.") from error

    def stop(self) -> None:
        """End the threads, once what has begun is done."""
        self._executor.shutdown(cancel_futures=True)

    # -- turns -------------------------------------------------------------------------------------
    async def _turn(self, client: Client) -> None:
        """Wait for a thread."""
        if self._num_running < self.num_threads:
            self._num_running += 1
            return
        self._refuse_beyond(client)
        turn = asyncio.get_running_loop().create_future()
        self._turns.push(client, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _refuse_beyond(self, client: Client) -> None:
        own, share = self._turns.waiting(client), self.max_waiting // CLIENT_SHARE
        if len(self._turns) >= self.max_waiting or own >= share:
            waiting = f"{len(self._turns)} requests wait for {self.name}"
            message = f"The server is busy: {waiting}. Try again in {BUSY_RETRY_S} s."
            raise Busy(message, BUSY_RETRY_S)

    def _begin(self, work: Callable[[], T]) -> Future[T]:
        loop = asyncio.get_running_loop()
        try:
            future = self._executor.submit(work)
        except RuntimeError as error:
            self._pass_on()
            raise Unavailable("The server is shutting down.") from error

        # Whoever asked may be gone by then: the thread is free when the work is done.
        def done(_: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pass_on)

        future.add_done_callback(done)
        return future

    def _pass_on(self) -> None:
        """A thread is free: the next turn is somebody's."""
        while self._turns:
            turn = self._turns.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._num_running -= 1
