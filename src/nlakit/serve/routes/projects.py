"""Audit projects: their transcripts, search over all thoughts, the thought map, detectors.

All of it reads what `nlakit scan` wrote; nothing is changed, and no model runs but the embedder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import pydantic
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from nlakit.audit.index import Filters
from nlakit.errors import UserError
from nlakit.serve.clients import client_of
from nlakit.serve.desk import Desk
from nlakit.serve.schemas_projects import (
    DetectorHits,
    OpenTranscript,
    Projects,
    ThoughtHits,
    TranscriptPage,
)

from .common import SECRET, Served, answer, problems

T = TypeVar("T", bound=pydantic.BaseModel)
PROJECT_CALL = (400, 401, 403, 404, 429, 503)
MAX_OFFSET, MAX_QUERY, MAX_PHRASES = 10**9, 400, 16
router = APIRouter(prefix="/v1/projects", dependencies=SECRET, tags=["projects"])
ProjectName = Annotated[str, Path(max_length=255)]
TranscriptId = Annotated[str, Path(min_length=1, max_length=255)]


def _desk(service: Served, project: str) -> Desk:
    found = service.desks.get(project)
    if found is None:
        raise HTTPException(404, "There is no such project. `nlakit serve --project DIR` adds one.")
    return found


async def _made(service: Served, request: Request, work: Callable[[], T]) -> Response:
    """A record that a project's thread makes."""
    client = client_of(request)
    try:
        record = await service.auditing.run(client, work)
    except UserError as error:  # an extra that is missing, a file that is corrupt
        raise HTTPException(400, str(error)) from error
    return await answer(service, client, lambda: record)


@router.get("", response_model=Projects, responses=problems(401, 403, 429, 503))
async def projects(request: Request, service: Served) -> Any:
    """The projects that the server was started with."""
    work = lambda: Projects(projects=[desk.head() for desk in service.desks.values()])  # noqa: E731
    return await _made(service, request, work)


@router.get(
    "/{project}/transcripts", response_model=TranscriptPage, responses=problems(*PROJECT_CALL)
)
async def transcripts(
    project: ProjectName,
    request: Request,
    service: Served,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> Any:
    """Transcripts of a project, in the order in which they came."""
    desk = _desk(service, project)
    return await _made(service, request, partial(desk.transcripts, limit, offset))


@router.get(
    "/{project}/transcripts/{transcript}",
    response_model=OpenTranscript,
    responses=problems(*PROJECT_CALL),
)
async def transcript(
    project: ProjectName, transcript: TranscriptId, request: Request, service: Served
) -> Any:
    """One transcript with everything that was read of it, on its thought map."""
    return await _made(service, request, partial(_desk(service, project).open, transcript))


@router.get("/{project}/search", response_model=ThoughtHits, responses=problems(*PROJECT_CALL))
async def search(
    project: ProjectName,
    request: Request,
    service: Served,
    q: Annotated[str, Query(max_length=MAX_QUERY)],
    meaning: bool = False,
    role: Annotated[str, Query(max_length=64)] = "",
    section: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Any:
    """Readings of all transcripts that say the words, or with `meaning` mean the like."""
    filters = Filters(role=role or None, section=section or None)
    desk = _desk(service, project)
    return await _made(service, request, partial(desk.search, q, meaning, filters, limit))


@router.get("/{project}/detect", response_model=DetectorHits, responses=problems(*PROJECT_CALL))
async def detect(
    project: ProjectName,
    request: Request,
    service: Served,
    phrase: Annotated[list[str], Query(max_length=MAX_PHRASES)],
) -> Any:
    """Phrases asked of every reading; hits that a transcript's own text supports are echoes."""
    short = [each[:MAX_QUERY] for each in phrase]
    return await _made(service, request, partial(_desk(service, project).detect, short))
