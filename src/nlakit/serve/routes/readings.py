"""Saved readings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Response

from nlakit.serve.schemas_v1 import NewReading, SavedHead, SavedList, SavedReading
from nlakit.serve.store import Saved

from .common import SECRET, Served, problems

router = APIRouter(prefix="/v1/readings", dependencies=SECRET, tags=["readings"])
ReadingId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
MAX_OFFSET = 10**9


@router.post("", status_code=201, responses=problems(400, 401, 403, 413, 503))
def create(body: NewReading, service: Served) -> SavedHead:
    """Save a reading. Once this is answered, it is on the disk."""
    return head(service.store.add(body.title, body.reading))


@router.get("", responses=problems(400, 401, 403, 503))
def find(
    service: Served,
    q: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> SavedList:
    """Saved readings, the newest first; `q`: those in which all these words stand."""
    found, total = service.store.find(q, limit, offset)
    return SavedList(readings=[head(each) for each in found], total=total)


@router.get("/{reading_id}", responses=problems(400, 401, 403, 404, 503))
def read(reading_id: ReadingId, service: Served) -> SavedReading:
    """One saved reading."""
    saved = service.store.get(reading_id)
    if saved is None:
        raise HTTPException(404, "There is no such reading.")
    return SavedReading(**head(saved).model_dump(), reading=saved.reading or {})


@router.delete(
    "/{reading_id}",
    status_code=204,
    response_class=Response,
    responses=problems(400, 401, 403, 404, 503),
)
def delete(reading_id: ReadingId, service: Served) -> Response:
    """Forget a saved reading."""
    if not service.store.delete(reading_id):
        raise HTTPException(404, "There is no such reading.")
    return Response(status_code=204)


def head(saved: Saved) -> SavedHead:
    """A reading without its content."""
    return SavedHead(id=saved.id, title=saved.title, created=saved.created)
