"""The interface that existing NLA clients speak, under its own paths."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request

from nlakit.errors import InputError
from nlakit.serve import records
from nlakit.serve.queue import Unavailable
from nlakit.serve.schemas import (
    Compared,
    CompareRequest,
    Described,
    DescribeRequest,
    Explained,
    ExplainRequest,
    Extracted,
    ExtractedToken,
    PromptRequest,
    Scored,
    ScoreRequest,
    Tokenized,
)
from nlakit.serve.service import as_rows, norms, resolve_positions
from nlakit.serve.stream import collect
from nlakit.serve.tokens import Prompt

from .common import GUARDED, MODEL_CALL, SECRET, Frames, Served, problems, sse, stream

router = APIRouter(dependencies=SECRET, tags=["wire"])


@router.post("/tokenize", responses=problems(*GUARDED, 413))
async def tokenize(body: PromptRequest, service: Served) -> Tokenized:
    """The tokens of a text or a conversation, as every other path counts them."""
    return tokenized(await service.prompt(body))


@router.post(
    "/explain",
    response_model=Explained,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL)},
)
async def explain(body: ExplainRequest, request: Request, service: Served) -> Any:
    """What the target is thinking at tokens, in words."""
    prompt = await service.prompt(body)
    places = resolve_positions(body.positions, len(prompt.encoded.ids))
    sampling, layer = service.sampling(body), service.nla.card.layer
    order = list(range(len(places)))[:: -1 if body.reverse else 1]
    with ExitStack() as stack:
        line = stack.enter_context(service.line(request, len(places), body.stream))
        vectors_PD = await service.run(lambda: service.extract(prompt, places), line.job.client)
        lengths = norms(vectors_PD)
        service.start_rows(line, vectors_PD, sampling, order)

        def record(outcome: Any) -> Any:
            place = outcome.place
            return records.explained(prompt, places[place], lengths[place], outcome)

        if body.stream:
            head = explain_head(layer, len(places), prompt)
            frames = Frames(
                head,
                lambda place: {"position": places[place]},
                lambda outcome: record(outcome).model_dump(),
                tell_queue=False,
            )
            return stream(service, line, frames, len(places), stack)
        outcomes = await collect(line, len(places), request)
        return Explained(layer_index=layer, results=[record(outcomes[i]) for i in order])


@router.post(
    "/describe",
    response_model=Described,
    responses={200: sse("All results, or a stream of them"), **problems(*MODEL_CALL)},
)
async def describe(body: DescribeRequest, request: Request, service: Served) -> Any:
    """What bare activations say."""
    vectors_ND = as_rows(body.activations, service.nla.card.d_model)
    num = len(vectors_ND)
    with ExitStack() as stack:
        line = stack.enter_context(service.line(request, num, body.stream))
        service.start_rows(line, vectors_ND, service.sampling(body), range(num))
        if body.stream:
            frames = Frames(None, index_of, described_frame, tell_queue=False)
            return stream(service, line, frames, num, stack)
        outcomes = await collect(line, num, request)
        return Described(results=[records.described(outcome) for outcome in outcomes])


@router.post("/score", responses=problems(*MODEL_CALL))
async def score(body: ScoreRequest, request: Request, service: Served) -> Scored:
    """How well a description, whoever wrote it, fits an activation."""
    vector_D = as_rows([body.activation], service.nla.card.d_model)[0]
    found = await service.call(request, lambda: service.score(body.description, vector_D))
    return Scored(mse=found.mse, cosine_similarity=found.cosine)


@router.post("/compare", responses=problems(*MODEL_CALL))
async def compare(body: CompareRequest, request: Request, service: Served) -> Compared:
    """What the difference a - b says."""
    vectors = as_rows([body.activation_a, body.activation_b], service.nla.card.d_model).double()
    difference_1D = (vectors[0] - vectors[1])[None]
    scaled_1D = difference_1D.clamp(-3.4e38, 3.4e38).float()
    with service.line(request, 1) as line:
        service.start_rows(line, scaled_1D, service.sampling(body), [0])
        outcome = (await collect(line, 1, request))[0]
    if outcome.error is not None:
        raise Unavailable(f"The difference could not be described: {outcome.error}.")
    words = records.described(outcome)
    return Compared(diff_norm=norms(difference_1D)[0], **words.model_dump(exclude={"error"}))


@router.post("/extract", responses=problems(*MODEL_CALL))
async def extract(body: PromptRequest, request: Request, service: Served) -> Extracted:
    """The raw activation at every token."""
    prompt = await service.prompt(body)
    return await extracted(service, request, prompt, None)


# -- shared with /v1 -------------------------------------------------------------------------------
async def extracted(
    service: Served, request: Request, prompt: Prompt, positions: list[int] | None
) -> Extracted:
    """The raw activation at some tokens, or at all of them."""
    places = resolve_positions(positions, len(prompt.encoded.ids))
    vectors_PD = await service.call(request, lambda: service.extract(prompt, places))
    if not bool(vectors_PD.isfinite().all()):
        raise InputError("The target's activations are not finite for this text.")
    lengths, rows = norms(vectors_PD), vectors_PD.tolist()
    tokens = [
        ExtractedToken(
            token=prompt.pieces[place].text,
            token_id=prompt.encoded.ids[place],
            position=place,
            activation=row,
            l2_norm=length,
        )
        for place, row, length in zip(places, rows, lengths, strict=True)
    ]
    return Extracted(layer_index=service.nla.card.layer, tokens=tokens)


def tokenized(prompt: Prompt) -> Tokenized:
    """The record of a prompt."""
    infos = prompt.infos()
    notices = list(prompt.notices)
    text = prompt.encoded.text
    return Tokenized(tokens=infos, prompt_length=len(infos), text=text, notices=notices)


def explain_head(layer: int, total: int, prompt: Prompt) -> dict[str, Any]:
    """The first frame of a stream of explanations."""
    return {"layer_index": layer, "total": total, "prompt_length": len(prompt.encoded.ids)}


def index_of(place: int) -> dict[str, int]:
    """How `/describe` names a place."""
    return {"index": place}


def described_frame(outcome: Any) -> dict[str, Any]:
    """A final of `/describe`."""
    return {**index_of(outcome.place), **records.described(outcome).model_dump()}
