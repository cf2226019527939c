"""JSON over HTTP with patience: tried again by the policy of `nlakit.retry`.

Needs the `teachers` extra (httpx2). Never logs a header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tenacity import AsyncRetrying, RetryCallState

from nlakit.config import FrozenModel
from nlakit.errors import MissingExtraError, RemoteError
from nlakit.retry import TryAgain, policy

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 529})


class Patience(FrozenModel):
    """How long to keep asking."""

    tries: int = 6
    first_wait: float = 1.0
    """Seconds before the second try; each further wait is twice as long, up to
    `retry.LONGEST_WAIT_S`."""
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
        self._policy = policy(patience.tries, patience.first_wait)
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
        try:
            async for attempt in AsyncRetrying(**self._policy, before_sleep=self._count):
                with attempt:
                    return await self._ask(method, self.base_url + path, body)
        except TryAgain as error:
            raise RemoteError(
                f"{self.base_url}{path} failed {self.patience.tries} times, the last with {error}. "
                "Answers so far are kept; try again later.",
                error.status,
            ) from error
        raise AssertionError("the policy ends with an answer or an error")

    async def _ask(self, method: str, url: str, body: Any) -> str:
        """One try. Raises TryAgain for what may pass, RemoteError for what was refused for good."""
        try:
            reply = await self._client.request(method, url, json=body)
        except self._errors as error:
            raise TryAgain(f"{type(error).__name__}: {error}") from error
        status = reply.status_code
        if status < 300 and _is_json(reply.text):
            return reply.text
        failure = f"HTTP {status}: {_words(reply.text)}"
        if status not in RETRIED and status >= 300:
            raise RemoteError(f"{url} refused. {failure}", status)
        raise TryAgain(failure, status, reply.headers.get("retry-after"))

    def _count(self, _: RetryCallState) -> None:
        self.retries += 1


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
