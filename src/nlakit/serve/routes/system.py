"""The status of the server, its page, health and metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from nlakit import __version__
from nlakit.serve import reference
from nlakit.serve.metrics import CONTENT_TYPE
from nlakit.serve.schemas import Status
from nlakit.serve.schemas_v1 import Health
from nlakit.serve.security import require_secret
from nlakit.serve.service import Service

from .common import SECRET, Served, problems

router = APIRouter(tags=["system"])
STATIC = Path(__file__).parents[1] / "static"


@router.get(
    "/",
    response_model=Status,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
    | problems(400, 401, 403),
)
async def status(request: Request, service: Served) -> Any:
    """What runs here; a browser gets the page, which holds no secret and needs none."""
    page = STATIC / "index.html"
    if "text/html" in request.headers.get("accept", "") and page.is_file():
        return FileResponse(page, headers={"Cache-Control": "no-cache"})
    await require_secret(request, request.headers.get("x-secret-key"))
    return status_of(service)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The HTTP interface for a person; like the page it holds no secret and needs none."""
    return HTMLResponse(reference.page(request.app.openapi()))


@router.get("/v1/openapi.json", include_in_schema=False)
async def description(request: Request) -> Response:
    """The same as `/openapi.json`."""
    return JSONResponse(request.app.openapi())


@router.get("/v1/health", responses={503: {"model": Health, "description": "Not able to serve"}})
async def health(service: Served) -> Any:
    """Whether the server can serve. Needs no secret, so that probes can ask."""
    state = health_of(service)
    return JSONResponse(state.model_dump(), 200 if state.status == "ok" else 503)


@router.get(
    "/metrics",
    dependencies=SECRET,
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    | problems(401, 403),
)
async def metrics(service: Served) -> Response:
    """Prometheus metrics."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)


def health_of(service: Service) -> Health:
    """The numbers of this moment."""
    state = "failed" if service.runner.failed else "draining" if service.draining else "ok"
    return Health(
        status=state,
        version=__version__,
        uptime_s=round(time.monotonic() - service.started, 3),
        requests=service.queue.num_open,
        rows_active=service.runner.num_active,
        rows_waiting=service.queue.num_waiting,
    )


def status_of(service: Service) -> Status:
    """What clients of the wire interface ask first."""
    card, target = service.nla.card, service.nla.target
    device, settings = str(target.model.device), service.settings
    return Status(
        verbalizer_model=f"{card.name}/av",
        d_model=card.d_model,
        verbalizer_device=device,
        reconstructor_device=device,
        source_model=f"{card.name}/target",
        extraction_layer=card.layer,
        source_device=device,
        completion_available=service.can_complete,
        num_cuda_devices=torch.cuda.device_count(),
        max_concurrent=settings.max_rows,
        max_concurrent_explains=settings.max_requests,
        source_max_concurrent=settings.max_requests,
        reconstructor_max_concurrent=settings.max_requests,
        max_describe_requests=settings.max_requests,
    )
