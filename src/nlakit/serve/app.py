"""The web application around one NLA."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from nlakit import __version__
from nlakit.errors import InputError
from nlakit.evals.probe_store import Probes
from nlakit.models.lens import Lens
from nlakit.pair.pair import Pair
from nlakit.sae.dual_map import DualMap

from .latents import ServedLatents
from .metrics import Counting
from .openapi import describe
from .queue import Busy, Unavailable
from .routes import (
    chat,
    completion,
    latents,
    lens,
    projects,
    reading_map,
    readings,
    steer,
    system,
    v1,
    wire,
)
from .security import Gate
from .service import Service
from .settings import Settings
from .stream import ClientGone, Deadline
from .truth import World

CLIENT_GONE = 499
UNAVAILABLE_RETRY_S = 5
MAX_ECHO, MAX_PROBLEMS = 200, 20
DESCRIPTION = (
    "Reads what a language model is thinking, in words, and says how far to believe it. "
    "With a secret configured, every path wants X-SECRET-KEY but /v1/health, the page, and this "
    "reference."
)

ROUTES = (
    *(system, wire, completion, v1, chat, steer, lens, latents),
    *(reading_map, readings, projects),
)

log = logging.getLogger("nlakit.serve")


def create_app(
    nla: Pair,
    settings: Settings | None = None,
    probes: Probes | None = None,
    world: World | None = None,
    beside: ServedLatents | None = None,
    reading_map: DualMap | None = None,
    jacobian_lens: Lens | None = None,
) -> FastAPI:
    """The application that serves an NLA.

    Args:
        probes: what `evals.probe_store.load_probes` finds beside it, to be asked beside its claims.
        world: of the documents whose truth is known, for verdicts and demo passages.
        beside: an autoencoder of the same site.
        reading_map: what two NLAs say of the same tokens.
        jacobian_lens: fitted to the target; the logit lens needs no fit.

    Raises:
        CheckpointError: saved readings cannot be kept where the settings say.
    """
    settings = settings or Settings()
    service = Service(nla, settings, probes, world, beside, reading_map, jacobian_lens)
    app = bare_app(service)
    app.state.service, app.state.settings = service, settings
    app.add_middleware(Gate, settings=settings, d_model=nla.card.d_model)
    app.add_middleware(Counting, metrics=service.metrics)
    return app


def bare_app(service: Service | None = None) -> FastAPI:
    """The paths alone: enough for the OpenAPI description."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service is None:
            yield
            return
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="nlakit",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.openapi = partial(describe, app)
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=system.STATIC, check_dir=False), name="static")
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


# -- errors ----------------------------------------------------------------------------------------
async def _bad_input(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 400)


async def _invalid(_: Request, error: Exception) -> Response:
    """FastAPI's list, without echoing what could not be written as JSON or is long."""
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "type": each["type"],
            "loc": list(each["loc"]),
            "msg": each["msg"],
            "input": _echo(each.get("input")),
        }
        for each in error.errors()[:MAX_PROBLEMS]
    ]
    return JSONResponse({"detail": found}, 422)


def _echo(value: Any) -> Any:
    """A short word or a small number; anything else is not repeated."""
    if isinstance(value, str) and len(value) <= MAX_ECHO:
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    return None


async def _busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, Busy)
    headers = {"Retry-After": str(error.retry_after)}
    return JSONResponse({"detail": str(error)}, 429, headers)


async def _unavailable(_: Request, error: Exception) -> Response:
    headers = {"Retry-After": str(UNAVAILABLE_RETRY_S)}
    return JSONResponse({"detail": str(error)}, 503, headers)


async def _storage(_: Request, error: Exception) -> Response:
    log.error("saved readings: %s", error)
    detail = "Saved readings cannot be reached at present."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": str(UNAVAILABLE_RETRY_S)})


async def _late(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 504)


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _engine_failed(_: Request, error: Exception) -> Response:
    log.error("the engine failed: %s", error)
    detail = "The engine failed on this request. Others are not affected."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": str(UNAVAILABLE_RETRY_S)})


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    RequestValidationError: _invalid,
    InputError: _bad_input,
    Busy: _busy,
    Unavailable: _unavailable,
    Deadline: _late,
    ClientGone: _gone,
    sqlite3.Error: _storage,
    RuntimeError: _engine_failed,
}
