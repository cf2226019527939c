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
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
TOO_LARGE = "The body is larger than {limit} bytes."


async def require_secret(
    request: Request,
    x_secret_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> None:
    """Refuse a request without the secret, where there is one."""
    wanted = request.app.state.settings.secret
    if wanted is None:
        return
    if x_secret_key is None:
        raise HTTPException(401, "X-SECRET-KEY header required")
    given, right = x_secret_key.encode(), wanted.get_secret_value().encode()
    if not secrets.compare_digest(given, right):
        raise HTTPException(403, "Invalid secret key")


class Gate:
    """Host and Origin allow-lists on every method, a bound on bodies, headers on every answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
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
            return
        await self.app(scope, _bounded(receive, self.settings.max_body_bytes), send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._host_is_allowed(hosts[0]):
            return JSONResponse({"detail": "Host not allowed"}, 400)
        origins = headers.getlist("origin")
        if not all(self._origin_is_allowed(origin, hosts[0], scope) for origin in origins):
            return JSONResponse({"detail": "Origin not allowed"}, 403)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.settings.max_body_bytes:
            detail = TOO_LARGE.format(limit=self.settings.max_body_bytes)
            return JSONResponse({"detail": detail}, 413)
        return None

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


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive`, refusing a body that grows beyond what was announced or allowed."""
    size = 0

    async def receiving() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, TOO_LARGE.format(limit=limit))
        return message

    return receiving


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def client_of(request: Request) -> str:
    """Who takes turns in the queue: a name the client gave itself, or its address."""
    named = request.headers.get("x-client-id", "")[:64]
    address = request.client.host if request.client else ""
    return f"{address}/{named}"
