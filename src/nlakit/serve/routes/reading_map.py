"""`GET /v1/reading-map`: what two NLAs say of the same tokens, on one map."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

from nlakit.sae.dual_map import DualMap

from .common import SECRET, Served, problems

router = APIRouter(prefix="/v1", dependencies=SECRET, tags=["v1"])


@router.get("/reading-map", responses=problems(401, 403, 404))
async def reading_map(service: Served) -> DualMap:
    """The map that the server was started with."""
    if service.reading_map is None:
        raise HTTPException(404, "No map of readings is served: nlakit serve --reading-map FILE.")
    return service.reading_map
