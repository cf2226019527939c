"""A pair that runs elsewhere, for programs with an event loop of their own.

Each call runs on a thread and waits there, so the loop never does. Cancelling a call stops waiting
for it; the server stops writing when the connection closes, at the latest at its own deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from nlakit.errors import InputError
from nlakit.reading import Reading, Score

from .remote import RemotePair
from .wire import JsonObject

T = TypeVar("T")
CONCURRENCY = 8


class AsyncRemotePair:
    """`RemotePair` to be awaited::

        async with await AsyncRemotePair.connect("http://127.0.0.1:8000") as pair:
            async for number, reading in pair.explain_many(texts, last=1):
                ...

    Args:
        pair: the connection.
        concurrency: requests in flight at once; others wait here.
    """

    def __init__(self, pair: RemotePair, concurrency: int = CONCURRENCY) -> None:
        if concurrency < 1:
            raise InputError(f"concurrency must be 1 or more, found {concurrency}.")
        self.pair = pair
        self._threads = ThreadPoolExecutor(concurrency, "nlakit-remote")

    @classmethod
    async def connect(
        cls, url: str, secret: str | None = None, concurrency: int = CONCURRENCY
    ) -> AsyncRemotePair:
        """Ask the server what it serves. Raises as `RemotePair`."""
        return cls(await asyncio.to_thread(RemotePair, url, secret), concurrency)

    async def explain(self, text: str | Sequence[JsonObject], **fields: Any) -> Reading:
        """As `RemotePair.explain`."""
        return await self._run(partial(self.pair.explain, text, **fields))

    async def describe(self, vectors_ND: Tensor, **fields: Any) -> Reading:
        """As `RemotePair.describe`."""
        return await self._run(partial(self.pair.describe, vectors_ND, **fields))

    async def score(self, explanation: str, vector_D: Tensor) -> Score:
        """As `RemotePair.score`."""
        return await self._run(partial(self.pair.score, explanation, vector_D))

    async def explain_many(
        self, texts: Sequence[str | Sequence[JsonObject]], **fields: Any
    ) -> AsyncIterator[tuple[int, Reading]]:
        """The number of each text with its reading, as they come. A failure ends it, and the
        requests that have not begun are not made."""

        async def numbered(number: int, text: str | Sequence[JsonObject]) -> tuple[int, Reading]:
            return number, await self.explain(text, **fields)

        tasks = [asyncio.create_task(numbered(*each)) for each in enumerate(texts)]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End the threads; what has not begun is not made."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> AsyncRemotePair:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
