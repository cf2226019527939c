"""The interface that existing NLA clients speak, under its own paths."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from torch import Tensor

from nlakit.errors import InputError
from nlakit.serve import records
from nlakit.serve.bodies import JsonBody, vector_body
from nlakit.serve.clients import Client, client_of
from nlakit.serve.queue import Outcome, Unavailable
from nlakit.serve.schemas import (
    Compared,
    CompareRequest,
    Described,
    DescribeRequest,
    Explained,
    ExplainRequest,
    ExplainResult,
    Extracted,
    ExtractedToken,
    PromptRequest,
    Scored,
    ScoreRequest,
    Tokenized,
)
from nlakit.serve.service import Service, as_rows, norms, resolve_positions
from nlakit.serve.settings import LIMITS
from nlakit.serve.stream import collect
from nlakit.serve.tokens import Prompt

from .common import (
    BODY_CALL,
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

router = APIRouter(dependencies=SECRET, tags=["wire"])
ROWS_AT_ONCE = 64
"""Activations are written so many at a time: all tokens of a long text may be gigabytes."""


@router.post(
    "/tokenize",
    response_model=Tokenized,
    responses=problems(*BODY_CALL),
    openapi_extra=takes(PromptRequest),
)
async def tokenize(
    body: Annotated[PromptRequest, Depends(JsonBody(PromptRequest))],
    request: Request,
    service: Served,
) -> Any:
    """The tokens of a text or a conversation, as every other path counts them."""
    prompt = await service.prompt(body, request)
    return await answer(service, client_of(request), partial(tokenized, prompt))


@router.post(
    "/explain",
    response_model=Explained,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL)},
    openapi_extra=takes(ExplainRequest),
)
async def explain(
    body: Annotated[ExplainRequest, Depends(JsonBody(ExplainRequest))],
    request: Request,
    service: Served,
) -> Any:
    """What the target is thinking at tokens, in words."""
    prompt = await service.prompt(body, request)
    places = resolve_positions(body.positions, len(prompt.encoded.ids))
    sampling, layer = service.sampling(body), service.nla.card.layer
    order = list(range(len(places)))[:: -1 if body.reverse else 1]
    with ExitStack() as stack:
        job = stack.enter_context(service.open_job(request, len(places), body.stream))
        vectors_PD = await service.run(lambda: service.extract(prompt, places), job.client)
        lengths = norms(vectors_PD)
        service.start_rows(job, vectors_PD, sampling, order)

        def record(outcome: Outcome) -> ExplainResult:
            place = outcome.place
            return records.explained(prompt, places[place], lengths[place], outcome)

        if body.stream:
            head = explain_head(layer, len(places), prompt)
            final = lambda outcome: record(outcome).model_dump()  # noqa: E731
            frames = Frames(head, partial(position_of, places), final, tell_queue=False)
            return stream(service, job, frames, len(places), stack)
        found = await collect(job, len(places), request, record, service.writing)
    results = [found[place] for place in order]
    return await answer(service, job.client, lambda: Explained(layer_index=layer, results=results))


@router.post(
    "/describe",
    response_model=Described,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL)},
    openapi_extra=takes(DescribeRequest),
)
async def describe(
    body: Annotated[
        DescribeRequest, Depends(vector_body(DescribeRequest, LIMITS.max_describe_batch))
    ],
    request: Request,
    service: Served,
) -> Any:
    """What bare activations say."""
    vectors_ND = as_rows(body.activations, service.nla.card.d_model)
    body.activations.clear()
    num = len(vectors_ND)
    with ExitStack() as stack:
        job = stack.enter_context(service.open_job(request, num, body.stream))
        service.start_rows(job, vectors_ND, service.sampling(body), range(num))
        if body.stream:
            frames = Frames(None, index_of, described_frame, tell_queue=False)
            return stream(service, job, frames, num, stack)
        found = await collect(job, num, request, records.described, service.writing)
    return await answer(service, job.client, lambda: Described(results=found))


@router.post(
    "/score",
    response_model=Scored,
    responses=problems(*MODEL_CALL),
    openapi_extra=takes(ScoreRequest),
)
async def score(
    body: Annotated[ScoreRequest, Depends(vector_body(ScoreRequest, 1))],
    request: Request,
    service: Served,
) -> Scored:
    """How well a description, whoever wrote it, fits an activation."""
    vector_D = as_rows([body.activation], service.nla.card.d_model)[0]
    found = await service.call(request, lambda: service.score(body.description, vector_D))
    return Scored(mse=found.mse, cosine_similarity=found.cosine)


@router.post(
    "/compare",
    response_model=Compared,
    responses=problems(*MODEL_CALL),
    openapi_extra=takes(CompareRequest),
)
async def compare(
    body: Annotated[CompareRequest, Depends(vector_body(CompareRequest, 2))],
    request: Request,
    service: Served,
) -> Compared:
    """What the difference a - b says."""
    vectors = as_rows([body.activation_a, body.activation_b], service.nla.card.d_model).double()
    difference_1D = (vectors[0] - vectors[1])[None]
    scaled_1D = difference_1D.clamp(-3.4e38, 3.4e38).float()
    with service.open_job(request, 1) as job:
        service.start_rows(job, scaled_1D, service.sampling(body), [0])
        (words,) = await collect(job, 1, request, records.described, service.writing)
    if words.error is not None:
        raise Unavailable(f"The difference could not be described: {words.error}.")
    return Compared(diff_norm=norms(difference_1D)[0], **words.model_dump(exclude={"error"}))


@router.post(
    "/extract",
    response_model=Extracted,
    responses=problems(*MODEL_CALL),
    openapi_extra=takes(PromptRequest),
)
async def extract(
    body: Annotated[PromptRequest, Depends(JsonBody(PromptRequest))],
    request: Request,
    service: Served,
) -> Any:
    """The raw activation at every token."""
    prompt = await service.prompt(body, request)
    return await extracted(service, request, prompt, None)


# -- shared with /v1 -------------------------------------------------------------------------------
async def extracted(
    service: Service, request: Request, prompt: Prompt, positions: list[int] | None
) -> Response:
    """The raw activation at some tokens, or at all of them."""
    places = all_or_some(positions, len(prompt.encoded.ids))
    vectors_PD = await service.call(request, lambda: service.extract(prompt, places))
    if not bool(vectors_PD.isfinite().all()):
        raise InputError("The target's activations are not finite for this text.")
    rows = extracted_rows(service, client_of(request), prompt, places, vectors_PD)
    return StreamingResponse(rows, media_type="application/json")


async def extracted_rows(
    service: Service, client: Client, prompt: Prompt, places: Sequence[int], vectors_PD: Tensor
) -> AsyncIterator[bytes]:
    """`Extracted` as JSON, some rows at a time."""
    yield b'{"layer_index":%d,"tokens":[' % service.nla.card.layer
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        work = partial(tokens_as_json, prompt, places[some], vectors_PD[some])
        yield (b"," if start else b"") + await service.writing.run(client, work)
    yield b"]}"


def tokens_as_json(prompt: Prompt, places: Sequence[int], vectors_PD: Tensor) -> bytes:
    """Records of tokens with their activations, separated by commas."""
    made = [
        ExtractedToken(
            token=prompt.pieces[place].text,
            token_id=prompt.encoded.ids[place],
            position=place,
            activation=row,
            l2_norm=length,
        ).model_dump_json()
        for place, row, length in zip(places, vectors_PD.tolist(), norms(vectors_PD), strict=True)
    ]
    return ",".join(made).encode("utf-8", "replace")


def all_or_some(positions: list[int] | None, num_tokens: int) -> list[int]:
    """All tokens of a text, however many; or those that were asked for."""
    return resolve_positions(positions, num_tokens) if positions else list(range(num_tokens))


def tokenized(prompt: Prompt) -> Tokenized:
    """The record of a prompt."""
    infos = prompt.infos()
    notices = list(prompt.notices)
    text = prompt.encoded.text
    return Tokenized(tokens=infos, prompt_length=len(infos), text=text, notices=notices)


def explain_head(layer: int, total: int, prompt: Prompt) -> dict[str, Any]:
    """The first frame of a stream of explanations."""
    return {"layer_index": layer, "total": total, "prompt_length": len(prompt.encoded.ids)}


def position_of(places: Sequence[int], place: int) -> dict[str, int]:
    """How `/explain` names a place."""
    return {"position": places[place]}


def index_of(place: int) -> dict[str, int]:
    """How `/describe` names a place."""
    return {"index": place}


def described_frame(outcome: Outcome) -> dict[str, Any]:
    """A final of a stream of `/describe`."""
    return {**index_of(outcome.place), **records.described(outcome).model_dump()}
