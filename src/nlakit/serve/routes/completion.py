"""`POST /completion`: the target goes on with a text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request

from nlakit.models.chat_spans import NO_SPAN, Span
from nlakit.serve.bodies import JsonBody
from nlakit.serve.completion import Continuation
from nlakit.serve.queue import Unavailable
from nlakit.serve.schemas import CompletionRequest, TokenInfo, Tokenized
from nlakit.serve.service import Service
from nlakit.serve.spans import Fragment, FragmentStream
from nlakit.serve.stream import DONE, Deadline, EventStream, OpenJob, frame, now, unless_gone
from nlakit.serve.tokens import Prompt, decoder, terminal_ids, token_info

from .common import MODEL_CALL, SECRET, Served, answer, problems, sse, takes

router = APIRouter(dependencies=SECRET, tags=["wire"])


@router.post(
    "/completion",
    response_model=Tokenized,
    responses={200: sse("All tokens, or a stream of them"), **problems(*MODEL_CALL)},
    openapi_extra=takes(CompletionRequest),
)
async def complete(
    body: Annotated[CompletionRequest, Depends(JsonBody(CompletionRequest))],
    request: Request,
    service: Served,
) -> Any:
    """What the target would write next."""
    refuse_without_head(service)
    prompt = await service.prompt(body, request)
    with ExitStack() as stack:
        job = stack.enter_context(service.open_job(request, 0))
        work = service.completion(prompt, body.completion_tokens, body.temperature)
        written = Written(service, prompt, work, bool(body.messages))
        stack.callback(written.cancel)
        service.runner.add(work)
        if body.stream:
            stack.pop_all()
            return CompletionStream(written, job, _frames(written))
        infos = await unless_gone(until_deadline(written, job), request)
    whole = lambda: Tokenized(  # noqa: E731
        tokens=[*prompt.infos(), *infos],
        prompt_length=len(prompt.encoded.ids),
        text=written.text(),
        notices=list(prompt.notices),
    )
    return await answer(service, job.client, whole)


def refuse_without_head(service: Service) -> None:
    """Raise 503 where the target cannot write."""
    if not service.can_complete:
        detail = "The target was loaded without the blocks and the head that write."
        raise HTTPException(503, detail, headers={"Retry-After": "3600"})


class Written:
    """The tokens of one continuation as records."""

    def __init__(self, service: Service, prompt: Prompt, work: Continuation, is_chat: bool) -> None:
        self.prompt, self._work = prompt, work
        self._decode = decoder(service.nla.target)
        self._ending = terminal_ids(service.nla.target)
        self._is_chat = is_chat
        self._ids: list[int] = []
        self._num_told = 0

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._work.cancelled = True

    async def infos(self) -> AsyncIterator[TokenInfo]:
        """A record a token; pieces of one character are held until it is whole."""
        pieces = FragmentStream(self._decode)
        async for token in self._work.written():
            self._ids.append(token)
            for each in pieces.push(token):
                yield self._info(*each)
        for each in pieces.flush():
            yield self._info(*each)

    def text(self) -> str:
        """All tokens as text, special ones included: BOS, role tokens, the end of text."""
        return self._decode([*self.prompt.encoded.ids, *self._ids])

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    @property
    def has_ended(self) -> bool:
        """Whether the target ended it, and not the number of tokens."""
        return bool(self._ids) and self._ids[-1] in self._ending

    def _info(self, token: int, piece: Fragment) -> TokenInfo:
        position = len(self.prompt.encoded.ids) + self._num_told
        self._num_told += 1
        return token_info(position, token, piece, self._span(token))

    def _span(self, token: int) -> Span:
        if token in self._ending:
            return Span(role="assistant", section="footer")
        return Span(role="assistant", section="content") if self._is_chat else NO_SPAN


async def until_deadline(written: Written, job: OpenJob) -> list[TokenInfo]:
    """All records. Raises `Deadline` where they take too long."""
    try:
        async with asyncio.timeout(job.deadline - now()):
            return [info async for info in written.infos()]
    except TimeoutError as error:
        raise Deadline("The completion took too long. Ask for fewer tokens.") from error


class CompletionStream(EventStream):
    """A continuation frame by frame; it stops when nobody reads it any more."""

    def __init__(self, written: Written, job: OpenJob, frames: AsyncIterator[bytes]) -> None:
        super().__init__(frames, job)
        self._written = written

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            self._written.cancel()


async def _frames(written: Written) -> AsyncIterator[bytes]:
    prompt = [info.model_dump() for info in written.prompt.infos()]
    yield frame({"type": "prompt", "prompt_length": len(prompt), "tokens": prompt})
    try:
        async for info in written.infos():
            yield frame({"type": "token", "token": info.model_dump()})
        yield frame({"type": "done", "text": written.text()})
    except Unavailable as error:
        yield frame({"error": str(error)})
    yield DONE
