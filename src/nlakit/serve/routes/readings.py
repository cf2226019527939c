"""Saved readings."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response

from nlakit.serve.bodies import JsonBody
from nlakit.serve.clients import client_of
from nlakit.serve.schemas_v1 import NewReading, SavedHead, SavedList, SavedReading
from nlakit.serve.store import Saved

from .common import BODY_CALL, SECRET, Served, answer, problems, takes

STORE_CALL = (400, 401, 403, 429, 503)
router = APIRouter(prefix="/v1/readings", dependencies=SECRET, tags=["readings"])
ReadingId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
MAX_OFFSET = 10**9


@router.post(
    "",
    status_code=201,
    responses=problems(*BODY_CALL),
    openapi_extra=takes(NewReading),
)
async def create(
    body: Annotated[NewReading, Depends(JsonBody(NewReading))], request: Request, service: Served
) -> SavedHead:
    """Save a reading. Once this is answered, it is on the disk."""
    deadline = service.storage_deadline()
    work = partial(service.store.add, body.title, body.reading, deadline)
    return head(await service.saved(request, work))


@router.get("", responses=problems(*STORE_CALL))
async def find(
    request: Request,
    service: Served,
    q: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> SavedList:
    """Saved readings, the newest first; `q`: those in which all these words stand."""
    work = partial(service.store.find, q, limit, offset)
    found, total = await service.saved(request, work)
    return SavedList(readings=[head(each) for each in found], total=total)


@router.get("/{reading_id}", response_model=SavedReading, responses=problems(*STORE_CALL, 404))
async def read(reading_id: ReadingId, request: Request, service: Served) -> Any:
    """One saved reading."""
    saved = await service.saved(request, partial(service.store.get, reading_id))
    if saved is None:
        raise HTTPException(404, "There is no such reading.")
    whole = lambda: SavedReading(**head(saved).model_dump(), reading=saved.reading or {})  # noqa: E731
    return await answer(service, client_of(request), whole)


@router.delete(
    "/{reading_id}",
    status_code=204,
    response_class=Response,
    responses=problems(*STORE_CALL, 404),
)
async def delete(reading_id: ReadingId, request: Request, service: Served) -> Response:
    """Forget a saved reading."""
    work = partial(service.store.delete, reading_id, service.storage_deadline())
    if not await service.saved(request, work):
        raise HTTPException(404, "There is no such reading.")
    return Response(status_code=204)


def head(saved: Saved) -> SavedHead:
    """A reading without its content."""
    return SavedHead(id=saved.id, title=saved.title, created=saved.created)
