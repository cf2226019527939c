"""JSON over HTTP with patience: retry with exponential back-off, jitter and Retry-After.

Needs the `teachers` extra (httpx2). Never logs a header.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Mapping
from typing import Any

from nlakit.config import FrozenModel
from nlakit.errors import MissingExtraError, RemoteError

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
MAX_WAIT = 120.0


class Patience(FrozenModel):
    """How long to keep asking."""

    tries: int = 6
    first_wait: float = 1.0
    """Seconds before the second try; each further wait is twice as long, up to `MAX_WAIT`."""
    timeout: float = 120.0
    """Seconds for one reply."""


class JsonClient:
    """Posts and gets JSON at one server; used as an async context manager."""

    def __init__(self, base_url: str, headers: Mapping[str, str], patience: Patience) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtraError("httpx2", "teachers") from error
        self._errors = (httpx2.TransportError, httpx2.TimeoutException)
        self._client = httpx2.AsyncClient(
            headers=dict(headers),
            timeout=patience.timeout,
            limits=httpx2.Limits(max_connections=None),
        )
        self.base_url, self.patience = base_url.rstrip("/"), patience
        self.retries = 0

    async def __aenter__(self) -> JsonClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, path: str, body: Any) -> Any:
        """The JSON of the reply. Raises RemoteError."""
        return _parsed(await self.request("POST", path, body))

    async def get(self, path: str) -> Any:
        """The JSON of the reply. Raises RemoteError."""
        return _parsed(await self.request("GET", path))

    async def request(self, method: str, path: str, body: Any = None) -> str:
        """The text of the reply, which is JSON, or JSON lines.

        Raises:
            RemoteError: refused for good (its words are in the message), or failing still after
                `patience.tries`.
        """
        failure = ""
        for attempt in range(self.patience.tries):
            wait = None
            try:
                reply = await self._client.request(method, self.base_url + path, json=body)
                if reply.status_code < 300 and _is_json(reply.text):
                    return reply.text
                failure = f"HTTP {reply.status_code}: {_words(reply.text)}"
                if reply.status_code not in RETRIED and reply.status_code >= 300:
                    raise RemoteError(
                        f"{self.base_url}{path} refused. {failure}", reply.status_code
                    )
                wait = retry_after(reply.headers.get("retry-after"))
            except self._errors as error:
                failure = f"{type(error).__name__}: {error}"
            if attempt + 1 < self.patience.tries:
                self.retries += 1
                await asyncio.sleep(wait_seconds(attempt, self.patience.first_wait, wait))
        raise RemoteError(
            f"{self.base_url}{path} failed {self.patience.tries} times, the last with {failure}. "
            "Answers so far are kept; try again later."
        )


def wait_seconds(attempt: int, first_wait: float, asked: float | None) -> float:
    """Seconds before the next try: what the server asked for, else doubling, half of it random."""
    if asked is not None:
        return min(asked, MAX_WAIT)
    full = min(MAX_WAIT, first_wait * 2**attempt)
    return full * (0.5 + 0.5 * random.random())


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header: a number, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _is_json(text: str) -> bool:
    """Whether every line is JSON (a batch's results), or the whole is."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        try:
            return bool(text.strip()) and all(
                isinstance(json.loads(line), dict) for line in text.splitlines() if line.strip()
            )
        except json.JSONDecodeError:
            return False
    return True


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RemoteError(f"Expected one JSON value, found {_words(text)!r}.") from error


def _words(text: str) -> str:
    """A server's error message, shortened."""
    try:
        found = json.loads(text)["error"]
        text = found["message"] if isinstance(found, dict) else str(found)
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:300]
