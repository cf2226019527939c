"""`POST /v1/steer`: edit an explanation, add the difference at the site, read what is written."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from nlakit.engines.base import MAX_NEW_TOKENS, sampling_for
from nlakit.pair.conversation import place_in_section
from nlakit.pair.steer import steer_at
from nlakit.serve.bodies import JsonBody
from nlakit.serve.schemas_v1 import SteerRequest, SteerResult
from nlakit.serve.service import Service, resolve_positions
from nlakit.serve.tokens import Prompt

from .common import MODEL_CALL, SECRET, Served, problems, takes
from .completion import refuse_without_head

router = APIRouter(prefix="/v1", dependencies=SECRET, tags=["v1"])


@router.post("/steer", responses=problems(*MODEL_CALL), openapi_extra=takes(SteerRequest))
async def steer(
    body: Annotated[SteerRequest, Depends(JsonBody(SteerRequest))],
    request: Request,
    service: Served,
) -> SteerResult:
    """What the target writes once the words of an explanation were changed, and before."""
    refuse_without_head(service)
    prompt = await service.prompt(body, request)
    if body.section is None:
        (position,) = resolve_positions([body.position], len(prompt.encoded.ids))
    else:
        position = place_in_section(prompt.spans, body.section, body.position)
    return await service.call(request, partial(steered, service, prompt, position, body))


def steered(service: Service, prompt: Prompt, position: int, body: SteerRequest) -> SteerResult:
    """The work itself, on the engine's thread. Raises `InputError` for an edit that is none."""
    nla, explanation = service.nla, body.explanation
    if explanation is None:
        greedy = sampling_for(1, None, MAX_NEW_TOKENS, 0)
        ((written,),) = nla.engine.verbalize(service.extract(prompt, [position]), greedy)
        explanation = written.text
    found = steer_at(
        nla.engine,
        nla.target,
        prompt.encoded.ids,
        position,
        explanation,
        body.edit,
        body.alpha,
        body.completion_tokens,
        once=body.once,
    )
    return SteerResult(
        layer_index=nla.card.layer,
        position=position,
        original=found.original,
        edited=found.edited,
        before=found.plain,
        after=found.steered,
        changed=found.changed,
        alpha=found.alpha,
        once=found.once,
        shift=found.shift,
        kl_unrelated=found.side_effect,
    )
