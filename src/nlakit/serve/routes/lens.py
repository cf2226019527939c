"""`POST /v1/lens`: likeliest next tokens after every block, by the logit or the Jacobian lens."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request

from nlakit.evals.lens import LensReading, read_lens
from nlakit.models.lens import Lens
from nlakit.serve.bodies import JsonBody
from nlakit.serve.schemas_latents import LensRequest
from nlakit.serve.service import resolve_positions

from .common import MODEL_CALL, SECRET, Served, problems, takes

router = APIRouter(prefix="/v1", dependencies=SECRET, tags=["v1"])


@router.post("/lens", responses=problems(*MODEL_CALL, 404), openapi_extra=takes(LensRequest))
async def lens(
    body: Annotated[LensRequest, Depends(JsonBody(LensRequest))],
    request: Request,
    service: Served,
) -> LensReading:
    """The residual stream of a token after each block, through the final norm and the head."""
    if not service.can_complete:
        detail = "The target was loaded without the blocks and the head that a lens needs."
        raise HTTPException(503, detail, headers={"Retry-After": "3600"})
    chosen = Lens() if body.lens == "logit" else service.jacobian_lens
    if chosen is None:
        raise HTTPException(404, "No Jacobian lens is served: nlakit lens fit, and serve again.")
    prompt = await service.prompt(body, request)
    places = resolve_positions([body.position], len(prompt.encoded.ids))
    work = partial(read_lens, chosen, service.nla.target, prompt.encoded, places)
    return await service.call(request, work)
