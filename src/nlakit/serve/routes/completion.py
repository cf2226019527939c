"""`POST /completion`: the target goes on with a text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from nlakit.models.chat_spans import NO_SPAN, Span
from nlakit.serve.completion import Completion
from nlakit.serve.queue import Unavailable
from nlakit.serve.schemas import CompletionRequest, TokenInfo, Tokenized
from nlakit.serve.service import Service
from nlakit.serve.spans import Fragment, FragmentStream
from nlakit.serve.stream import DONE, Deadline, EventStream, Line, frame, now, unless_gone
from nlakit.serve.tokens import Prompt, decoder, terminal_ids, token_info

from .common import MODEL_CALL, SECRET, Served, problems, sse

router = APIRouter(dependencies=SECRET, tags=["wire"])


@router.post(
    "/completion",
    response_model=Tokenized,
    responses={200: sse("All tokens, or a stream of them"), **problems(*MODEL_CALL)},
)
async def complete(body: CompletionRequest, request: Request, service: Served) -> Any:
    """What the target would write next."""
    if not service.can_complete:
        detail = "The target was loaded without the blocks and the head that write."
        raise HTTPException(503, detail, headers={"Retry-After": "3600"})
    prompt = await service.prompt(body)
    with ExitStack() as stack:
        line = stack.enter_context(service.line(request, 0))
        work = service.completion(prompt, body.completion_tokens, body.temperature)
        writing = Writing(service, prompt, work, bool(body.messages))
        stack.callback(writing.cancel)
        service.runner.add(work)
        if body.stream:
            stack.pop_all()
            return CompletionStream(writing, line)
        infos = await unless_gone(until_deadline(writing, line), request)
    whole = [*prompt.infos(), *infos]
    length, notices = len(prompt.encoded.ids), list(prompt.notices)
    return Tokenized(tokens=whole, prompt_length=length, text=writing.text(), notices=notices)


class Writing:
    """The tokens of one continuation as records."""

    def __init__(self, service: Service, prompt: Prompt, work: Completion, is_chat: bool) -> None:
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
        """Prompt and continuation, a final end-of-text left out."""
        ids = self._ids
        kept = ids[:-1] if ids and ids[-1] in self._ending else ids
        return self.prompt.encoded.text + self._decode(kept)

    def _info(self, token: int, piece: Fragment) -> TokenInfo:
        position = len(self.prompt.encoded.ids) + self._num_told
        self._num_told += 1
        return token_info(position, token, piece, self._span(token))

    def _span(self, token: int) -> Span:
        if token in self._ending:
            return Span(role="assistant", section="footer")
        return Span(role="assistant", section="content") if self._is_chat else NO_SPAN


async def until_deadline(writing: Writing, line: Line) -> list[TokenInfo]:
    """All records. Raises `Deadline` where they take too long."""
    found = []
    async for info in writing.infos():
        found.append(info)
        if now() > line.deadline:
            raise Deadline("The completion took too long. Ask for fewer tokens.")
    return found


class CompletionStream(EventStream):
    """The same, frame by frame."""

    def __init__(self, writing: Writing, line: Line) -> None:
        super().__init__(_frames(writing), line)
        self._writing = writing

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            self._writing.cancel()


async def _frames(writing: Writing) -> AsyncIterator[str]:
    prompt = [info.model_dump() for info in writing.prompt.infos()]
    yield frame({"type": "prompt", "prompt_length": len(prompt), "tokens": prompt})
    try:
        async for info in writing.infos():
            yield frame({"type": "token", "token": info.model_dump()})
        yield frame({"type": "done", "text": writing.text()})
    except Unavailable as error:
        yield frame({"error": str(error)})
    yield DONE
