"""Who may speak to the server, and what a browser may do with its answers.

Plain ASGI, outermost first: a request is judged by its head before any of its body is read.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Header, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .bodies import (
    BODY_PATHS,
    SCOPE_KEY,
    STRANGER_BYTES,
    Bodies,
    BodiesFull,
    HeldBody,
    TooLarge,
    TooSlow,
    bound_of,
    syntax_error,
)
from .settings import LOOPBACK_NAMES, Settings, is_loopback

SECRET_HEADER = "X-SECRET-KEY"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
RESPONSE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


async def require_secret(
    request: Request,
    x_secret_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> None:
    """Refuse a request without the secret, where there is one."""
    problem = secret_problem(request.app.state.settings, x_secret_key)
    if problem is not None:
        raise HTTPException(*problem)


def secret_problem(settings: Settings, given: str | None) -> tuple[int, str] | None:
    """Status and detail for who has not the secret; None: he has, or there is none."""
    if settings.secret is None:
        return None
    if given is None:
        return 401, "X-SECRET-KEY header required"
    right = settings.secret.get_secret_value()
    if not secrets.compare_digest(given.encode(), right.encode()):
        return 403, "Invalid secret key"
    return None


class Gate:
    """Host and Origin allow-lists on every method, bounds on bodies, headers on every answer.

    Args:
        d_model: of the NLA; how large vectors can be follows from it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, d_model: int) -> None:
        self.app, self.settings, self.d_model = app, settings, d_model
        self.bodies = Bodies()
        self.hosts = {*LOOPBACK_NAMES, settings.host.lower()}
        self.hosts |= {name.lower() for name in settings.allowed_hosts}
        self.origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _with_headers(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif scope["method"] in WITH_BODY:
            await self._read_body(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._host_is_allowed(hosts[0]):
            return _problem(400, "Host not allowed")
        origins = headers.getlist("origin")
        if not all(self._origin_is_allowed(origin, hosts[0], scope) for origin in origins):
            return _problem(403, "Origin not allowed")
        return None

    async def _read_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request by its head, then read its body, then let it in."""
        stranger = None
        if scope["path"] in BODY_PATHS:
            given = Headers(scope=scope).get(SECRET_HEADER)
            stranger = secret_problem(self.settings, given)
        try:
            body = await self._body(scope, receive, stranger is not None)
        except ClientDisconnect:
            return
        except BodyRefused as refusal:
            answer = refusal.answer if stranger is None else _problem(*stranger)
            await answer(scope, receive, send)
            return
        try:
            if stranger is not None:
                await _for_stranger(stranger, scope, body.raw)(scope, receive, send)
                return
            scope[SCOPE_KEY] = body
            await self.app(scope, receive, send)
        finally:
            body.release()

    async def _body(self, scope: Scope, receive: Receive, is_stranger: bool) -> HeldBody:
        """Raises `BodyRefused`, or `ClientDisconnect` where the client left."""
        most = bound_of(scope["path"], self.d_model, self.settings)
        most = min(most, STRANGER_BYTES) if is_stranger else most
        too_large = BodyRefused(_problem(413, f"The body is larger than {most} bytes."))
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        try:
            return await self.bodies.read(receive, most)
        except TooLarge as error:
            raise too_large from error
        except TooSlow as error:
            raise BodyRefused(_problem(408, "The body did not arrive in time.")) from error
        except BodiesFull as error:
            busy = "The server is busy: it holds many large requests. Try again in 2 s."
            raise BodyRefused(_problem(429, busy, {"Retry-After": "2"})) from error

    def _host_is_allowed(self, header: str) -> bool:
        name = host_name(header)
        if name is None:
            return False
        # A page of another site can only reach us under a name; an address is what was typed.
        return name in self.hosts or (not is_loopback(self.settings.host) and _is_address(name))

    def _origin_is_allowed(self, origin: str, host: str, scope: Scope) -> bool:
        own = f"{scope['scheme']}://{host}".lower()
        return origin.lower() == own or origin.lower() in self.origins


def host_name(header: str) -> str | None:
    """The name or address in a Host header, without its port; None where it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    is_bare = parts.netloc == header and "@" not in header
    return name.lower() if name and is_bare else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class BodyRefused(Exception):
    """A body that is not read, and the answer to it."""

    def __init__(self, answer: JSONResponse) -> None:
        self.answer = answer
        super().__init__()


def _for_stranger(problem: tuple[int, str], scope: Scope, raw: bytes) -> JSONResponse:
    """Who has no secret is told so, but first that what he sent is no JSON."""
    is_json = "json" in Headers(scope=scope).get("content-type", "").lower()
    malformed = syntax_error(raw) if is_json and raw else None
    if malformed is not None:
        return JSONResponse({"detail": [malformed]}, 422)
    return _problem(*problem)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
