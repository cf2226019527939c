"""HTTP calls to a server of explanations: a secret, time limits, patience when it is busy.

Every call may be repeated, because none changes anything on the server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tenacity import Retrying

from nlakit.errors import MissingExtraError, RemoteError
from nlakit.retry import TryAgain, policy

if TYPE_CHECKING:
    import httpx2

BUSY = (429, 503)
ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
CONNECT_TIMEOUT_S = 10.0
SECRET_HEADER = "X-SECRET-KEY"
BINARY = "application/octet-stream"
DONE = "[DONE]"

JsonObject = dict[str, Any]


class Connection:
    """One server.

    Args:
        url: where it is, such as `http://127.0.0.1:8000`.
        secret: sent with every call.
        timeout_s: how long the server may be silent.
        client: the HTTP client, for tests; by default one is made.
        sleep: how to wait, for tests.

    Raises:
        MissingExtraError: httpx2 is not installed.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        timeout_s: float = 600.0,
        client: httpx2.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtraError("httpx2", "remote") from error
        self.url = url.rstrip("/")
        self._failures = (httpx2.HTTPError, httpx2.InvalidURL)
        self._headers = {} if secret is None else {SECRET_HEADER: secret}
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        self._client = client or httpx2.Client(timeout=timeout)
        self._sleep = sleep

    def get(self, path: str) -> JsonObject:
        """A JSON object. Raises `RemoteError` with the server's words where it refuses."""
        with self._open("GET", path) as response:
            return self._json(response)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        """A JSON object in, one out. Raises as `get`."""
        with self._open("POST", path, json=body) as response:
            return self._json(response)

    def post_for_bytes(self, path: str, body: JsonObject) -> bytes:
        """A JSON object in, bytes out. Raises as `get`."""
        call = self._open("POST", path, headers={"Accept": BINARY}, json=body)
        with call as response, self._told():
            return response.read()

    def frames(self, path: str, body: JsonObject) -> Iterator[JsonObject]:
        """The frames of a stream, up to `[DONE]`.

        Raises:
            RemoteError: as `get`; or the stream broke off, or holds something else.
        """
        with self._open("POST", path, json=body) as response, self._told():
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == DONE:
                    return
                yield self._object(data)
        raise RemoteError(f"{self.url}{path}: the stream broke off. Ask again.")

    @contextmanager
    def _open(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **sent: Any
    ) -> Iterator[httpx2.Response]:
        """A response that was accepted; waits and asks again while the server is busy."""
        headers = {**self._headers, **(headers or {})}
        asking = Retrying(**policy(ATTEMPTS, FIRST_WAIT_S, LONGEST_WAIT_S), sleep=self._sleep)
        response = asking(self._send, method, path, headers=headers, **sent)
        try:
            yield response
        finally:
            response.close()

    def _send(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        """One try. Raises TryAgain where the server is busy, RemoteError where it refuses."""
        with self._told():
            request = self._client.build_request(method, f"{self.url}{path}", **sent)
            response = self._client.send(request, stream=True)
        try:
            self._check(path, response)
        except RemoteError:
            response.close()
            raise
        return response

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of the network in words for a person."""
        try:
            yield
        except self._failures as error:
            found = str(error) or type(error).__name__
            raise RemoteError(
                f"{self.url} cannot be reached ({found}). Is the server running there?"
            ) from error

    def _check(self, path: str, response: httpx2.Response) -> None:
        if response.is_success:
            return
        with self._told():
            text = response.read().decode(errors="replace")
        status = response.status_code
        message = f"{self.url}{path} answered {status}: {_detail(text)}"
        if status in BUSY:
            raise TryAgain(message, status, response.headers.get("Retry-After"))
        raise RemoteError(message, status)

    def _json(self, response: httpx2.Response) -> JsonObject:
        with self._told():
            return self._object(response.read().decode(errors="replace"))

    def _object(self, text: str) -> JsonObject:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RemoteError(
                f"{self.url} answered with what is no JSON object: {text[:80]!r}. "
                "Give the address of a server of nlakit or of Neuronpedia's NLA server."
            )
        return found


def _detail(text: str) -> str:
    """The server's own words, which stand in `detail`."""
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text
    return " ".join(str(detail).split())[:300]
