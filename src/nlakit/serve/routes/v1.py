"""Our own interface: samples, seeds, fidelity against the baseline, claims, binary vectors."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nlakit.errors import InputError
from nlakit.serve import records
from nlakit.serve.bodies import HeldBody, JsonBody, in_turn, media_type, vector_body
from nlakit.serve.clients import client_of
from nlakit.serve.model_info import model_info
from nlakit.serve.queue import Outcome
from nlakit.serve.schemas import Extracted
from nlakit.serve.schemas_v1 import (
    DescribedV1,
    DescribeQuery,
    DescribeRequestV1,
    DescribeResultV1,
    ExplainedV1,
    ExplainRequestV1,
    ExplainResultV1,
    ExtractRequestV1,
    Models,
    Passages,
)
from nlakit.serve.service import Service, as_rows, norms, resolve_positions
from nlakit.serve.settings import LIMITS
from nlakit.serve.stream import collect

from .common import (
    BINARY,
    BINARY_CONTENT,
    MODEL_CALL,
    SECRET,
    Frames,
    Served,
    answer,
    problems,
    sse,
    stream,
    takes,
)
from .wire import all_or_some, explain_head, extracted, index_of, position_of

router = APIRouter(prefix="/v1", dependencies=SECRET, tags=["v1"])
VECTORS = "vectors"
READ_DESCRIBE = vector_body(DescribeRequestV1, LIMITS.max_describe_batch)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@router.get("/models", responses=problems(401, 403))
async def models(service: Served) -> Models:
    """The NLA that is served, its contract, and what its scores are measured against."""
    return Models(models=[model_info(service)])


@router.get("/passages", responses=problems(401, 403, 429, 503))
async def passages(request: Request, service: Served) -> Passages:
    """Demo passages of the world that the NLA reads, where the server knows it; else real texts."""
    found = await service.reading_prompts.run(client_of(request), service.passages)
    return Passages(passages=found)


@router.post(
    "/explain",
    response_model=ExplainedV1,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL)},
    openapi_extra=takes(ExplainRequestV1),
)
async def explain(
    body: Annotated[ExplainRequestV1, Depends(JsonBody(ExplainRequestV1))],
    request: Request,
    service: Served,
) -> Any:
    """What the target is thinking at tokens, in several samples, with fidelity and claims."""
    prompt = await service.prompt(body, request)
    places = resolve_positions(body.positions, len(prompt.encoded.ids))
    sampling, card = service.sampling(body, body), service.nla.card
    judge = service.judge(prompt, body.document)
    order = list(range(len(places)))[:: -1 if body.reverse else 1]
    with ExitStack() as stack:
        num_rows = len(places) * sampling.samples
        judged = judge is not None
        job = stack.enter_context(service.open_job(request, num_rows, body.stream, judged))
        vectors_PD = await service.run(lambda: service.extract(prompt, places), job.client)
        lengths = norms(vectors_PD)
        service.start_rows(job, vectors_PD, sampling, order)

        def record(outcome: Outcome) -> ExplainResultV1:
            place = outcome.place
            position, vector_D = places[place], vectors_PD[place]
            claims_of = unsaid_of = None
            if judge is not None:
                claims_of = judge.at(position, vector_D)
                unsaid_of = partial(judge.unsaid, position, vector_D)
            return records.explained_v1(
                prompt, position, lengths[place], outcome, claims_of, unsaid_of
            )

        if body.stream:
            head = {**explain_head(card.layer, len(places), prompt), **baseline(service)}
            final = lambda outcome: record(outcome).model_dump()  # noqa: E731
            frames = Frames(head, partial(position_of, places), final, tell_queue=True)
            return stream(service, job, frames, len(places), stack)
        found = await collect(job, len(places), request, record, service.writing)
    results = [found[place] for place in order]
    whole = lambda: ExplainedV1(layer_index=card.layer, results=results, **baseline(service))  # noqa: E731
    return await answer(service, job.client, whole)


@router.post(
    "/describe",
    response_model=DescribedV1,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL, 415)},
    openapi_extra=takes(DescribeRequestV1, binary=True),
)
async def describe(
    request: Request, service: Served, query: Annotated[DescribeQuery, Query()]
) -> Any:
    """What bare activations say: JSON, or safetensors with the key `vectors` (N x D) and the rest
    in the query string."""
    kind, d_model = media_type(request), service.nla.card.d_model
    if kind == BINARY:
        held = HeldBody.of(request)
        vectors_ND = await in_turn(request, held, read_vectors)
        held.release()
        return await describe_rows(request, service, vectors_ND, query)
    if kind != "application/json":
        raise HTTPException(415, f"Send application/json or {BINARY}, not {kind or 'nothing'}.")
    body = await READ_DESCRIBE(request)
    vectors_ND = as_rows(body.activations, d_model)
    body.activations.clear()
    return await describe_rows(request, service, vectors_ND, body)


@router.post(
    "/extract",
    response_model=Extracted,
    responses={
        200: {
            "description": "JSON, or with Accept application/octet-stream safetensors: "
            "`vectors` (P x D, float32), `positions` and `token_ids` (P, int64)",
            "content": {BINARY: BINARY_CONTENT},
        },
        **problems(*MODEL_CALL),
    },
    openapi_extra=takes(ExtractRequestV1),
)
async def extract(
    body: Annotated[ExtractRequestV1, Depends(JsonBody(ExtractRequestV1))],
    request: Request,
    service: Served,
) -> Any:
    """The raw activation at tokens."""
    prompt = await service.prompt(body, request)
    if BINARY not in request.headers.get("accept", ""):
        return await extracted(service, request, prompt, body.positions)
    places = all_or_some(body.positions, len(prompt.encoded.ids))
    vectors_PD = await service.call(request, lambda: service.extract(prompt, places))
    tensors = {
        VECTORS: vectors_PD.contiguous(),
        "positions": torch.tensor(places),
        "token_ids": torch.tensor([prompt.encoded.ids[place] for place in places]),
    }
    return Response(save_tensors(tensors), media_type=BINARY)


# -- parts -----------------------------------------------------------------------------------------
async def describe_rows(
    request: Request,
    service: Service,
    vectors_ND: Tensor,
    fields: DescribeRequestV1 | DescribeQuery,
) -> Any:
    """`/v1/describe`, its vectors read."""
    card, num = service.nla.card, len(vectors_ND)
    judge = service.judge(None, None)

    def record(outcome: Outcome) -> DescribeResultV1:
        place = outcome.place
        return records.described_v1(outcome, judge and judge.at(place, vectors_ND[place]))

    with ExitStack() as stack:
        num_rows, judged = num * fields.samples, judge is not None
        job = stack.enter_context(service.open_job(request, num_rows, fields.stream, judged))
        service.start_rows(job, vectors_ND, service.sampling(fields, fields), range(num))
        if fields.stream:
            final = lambda outcome: record(outcome).model_dump()  # noqa: E731
            frames = Frames(None, index_of, final, tell_queue=True)
            return stream(service, job, frames, num, stack)
        found = await collect(job, num, request, record, service.writing)
    whole = lambda: DescribedV1(layer_index=card.layer, results=found, **baseline(service))  # noqa: E731
    return await answer(service, job.client, whole)


def baseline(service: Service) -> dict[str, Any]:
    """What fidelities are measured against."""
    card = service.nla.card
    return {"model": card.name, "variance": card.variance, "floors": card.floors}


def read_vectors(raw: bytes, d_model: int) -> Tensor:
    """`vectors` of a safetensors file, as N x D float32.

    Raises:
        InputError: another file, another shape.
        RequestValidationError: numbers that are not finite.
    """
    try:
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"The body is not a safetensors file: {error}") from error
    vectors = tensors.get(VECTORS)
    if vectors is None or vectors.dtype not in FLOATS:
        raise InputError(
            f"The body must hold {VECTORS!r}, floating-point; found {sorted(tensors)}."
        )
    if vectors.ndim != 2 or not 1 <= len(vectors) <= LIMITS.max_describe_batch:
        raise InputError(
            f"{VECTORS!r} must be 1 to {LIMITS.max_describe_batch} rows of {d_model} numbers, "
            f"found {tuple(vectors.shape)}."
        )
    if vectors.shape[1] != d_model:
        raise InputError(f"Vector length {vectors.shape[1]} != d_model {d_model}")
    if not bool(vectors.float().isfinite().all()):
        message = "Input should be a finite number"
        place = {"type": "finite_number", "loc": ("body", VECTORS), "msg": message, "input": None}
        raise RequestValidationError([place])
    return vectors.float()
