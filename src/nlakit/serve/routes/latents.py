"""`/v1/latents`: an autoencoder beside the NLA. Without one every path answers 404."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Path as PathParameter

from nlakit.errors import InputError
from nlakit.sae.dashboard import Dashboard
from nlakit.sae.dual_map import DualMap
from nlakit.sae.features import TextFeatures, features_of
from nlakit.sae.steering import SteeredByLatent, steer_by_latent
from nlakit.sae.store import DashboardStore
from nlakit.sae.witness import WitnessedToken, witness_explanation
from nlakit.serve.bodies import JsonBody
from nlakit.serve.latents import ServedLatents
from nlakit.serve.schemas_latents import (
    FeaturesRequest,
    FoundLatents,
    Latents,
    SteerLatentRequest,
    WitnessRequest,
)
from nlakit.serve.service import Service, resolve_positions
from nlakit.serve.tokens import Prompt

from .common import MODEL_CALL, SECRET, Served, problems, takes

router = APIRouter(prefix="/v1/latents", dependencies=SECRET, tags=["latents"])
T = TypeVar("T")
STORED = problems(401, 403, 404, 422, 429, 503)
CALL = problems(*MODEL_CALL, 404)


def latents_of(service: Served) -> ServedLatents:
    """The autoencoder that is served. Raises 404 where there is none."""
    if service.latents is None:
        raise HTTPException(404, "No autoencoder is served: nlakit serve --sae NAME.")
    return service.latents


Beside = Annotated[ServedLatents, Depends(latents_of)]


@router.get("", responses=problems(401, 403, 404))
async def about(service: Served, latents: Beside) -> Latents:
    """The autoencoder."""
    return Latents(
        name=latents.name,
        architecture=latents.sae.architecture,
        d_sae=latents.sae.config.d_sae,
        layer_index=service.nla.card.layer,
        has_dashboards=latents.dashboards is not None,
        has_map=latents.map is not None,
    )


@router.get("/map", responses=problems(401, 403, 404))
async def dual_map(latents: Beside) -> DualMap:
    """This dictionary and another one on one map."""
    if latents.map is None:
        raise HTTPException(404, "No dual map is served: nlakit serve --latent-map FILE.")
    return latents.map


@router.get("/search", responses=STORED)
async def search(
    request: Request,
    service: Served,
    latents: Beside,
    q: Annotated[str, Query(max_length=200)],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> FoundLatents:
    """Latents by the words of their dashboards."""
    ask = partial(latents.stored, lambda store: store.search(q, limit))
    return FoundLatents(found=await _stored(service, request, ask))


@router.get("/{latent}", responses=STORED)
async def dashboard(
    request: Request,
    service: Served,
    latents: Beside,
    latent: Annotated[int, PathParameter(ge=0, lt=2**31)],
) -> Dashboard:
    """What a latent is about."""
    ask = partial(latents.stored, lambda store: DashboardStore.dashboard(store, latent))
    return await _stored(service, request, ask)


@router.post("/features", responses=CALL, openapi_extra=takes(FeaturesRequest))
async def features(
    body: Annotated[FeaturesRequest, Depends(JsonBody(FeaturesRequest))],
    request: Request,
    service: Served,
    latents: Beside,
) -> TextFeatures:
    """The strongest latents at each token."""
    prompt = await service.prompt(body, request)
    places = None
    if body.positions is not None:
        places = resolve_positions(body.positions, len(prompt.encoded.ids))
    work = partial(
        features_of,
        latents.sae,
        service.nla.target,
        prompt.encoded,
        name=latents.name,
        positions=places,
        top=body.top,
        latents=body.latents,
        labels=latents.labels(),
    )
    return await service.call(request, work)


@router.post("/witness", responses=CALL, openapi_extra=takes(WitnessRequest))
async def witness(
    body: Annotated[WitnessRequest, Depends(JsonBody(WitnessRequest))],
    request: Request,
    service: Served,
    latents: Beside,
) -> WitnessedToken:
    """Which latents of a token its explanation shares, loses and invents."""
    prompt = await service.prompt(body, request)
    (position,) = resolve_positions([body.position], len(prompt.encoded.ids))
    work = partial(
        witness_explanation,
        service.nla,
        latents.sae,
        prompt.encoded,
        position,
        body.explanation,
        labels=latents.labels(),
        residual=body.residual,
    )
    return await service.call(request, work)


@router.post("/steer", responses=CALL, openapi_extra=takes(SteerLatentRequest))
async def steer(
    body: Annotated[SteerLatentRequest, Depends(JsonBody(SteerLatentRequest))],
    request: Request,
    service: Served,
    latents: Beside,
) -> SteeredByLatent:
    """What the target writes when a latent of one token has another value."""
    if not service.can_complete:
        detail = "The target was loaded without the blocks and the head that write."
        raise HTTPException(503, detail, headers={"Retry-After": "3600"})
    prompt = await service.prompt(body, request)
    (position,) = resolve_positions([body.position], len(prompt.encoded.ids))
    return await service.call(request, partial(steered, service, latents, prompt, position, body))


def steered(
    service: Service,
    latents: ServedLatents,
    prompt: Prompt,
    position: int,
    body: SteerLatentRequest,
) -> SteeredByLatent:
    """The work itself, on the engine's thread. Raises `InputError`: no such latent."""
    return steer_by_latent(
        latents.sae,
        service.nla.target,
        prompt.encoded.ids,
        body.latent,
        body.value,
        name=latents.name,
        position=position,
        max_new_tokens=body.completion_tokens,
    )


async def _stored(service: Service, request: Request, ask: Callable[[], T]) -> T:
    try:
        return await service.saved(request, ask)
    except InputError as error:
        raise HTTPException(404, str(error)) from error
