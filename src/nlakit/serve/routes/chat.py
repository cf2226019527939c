"""`POST /v1/chat`: the target answers a conversation, its thoughts apart from its words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from nlakit.errors import InputError
from nlakit.serve.bodies import JsonBody
from nlakit.serve.queue import Unavailable
from nlakit.serve.schemas import TokenInfo
from nlakit.serve.schemas_v1 import ChatMessage, ChatRequest, ChatResult
from nlakit.serve.stream import DONE, frame, unless_gone
from nlakit.serve.thoughts import Said, ThoughtSplitter

from .common import MODEL_CALL, SECRET, Served, answer, problems, sse, takes
from .completion import CompletionStream, Written, refuse_without_head, until_deadline

router = APIRouter(prefix="/v1", dependencies=SECRET, tags=["v1"])


@router.post(
    "/chat",
    response_model=ChatResult,
    responses={200: sse("The answer, or a stream of its words"), **problems(*MODEL_CALL)},
    openapi_extra=takes(ChatRequest),
)
async def chat(
    body: Annotated[ChatRequest, Depends(JsonBody(ChatRequest))],
    request: Request,
    service: Served,
) -> Any:
    """What the target answers. A stream has `text` frames with their section (thinking or content),
    then a `done` frame with what the answer is without a stream."""
    refuse_without_head(service)
    if not body.messages:
        raise InputError("A chat needs `messages`. For a plain text there is /completion.")
    prompt = await service.prompt(body, request)
    with ExitStack() as stack:
        job = stack.enter_context(service.open_job(request, 0))
        work = service.completion(prompt, body.completion_tokens, body.temperature, body.seed)
        written = Written(service, prompt, work, is_chat=True)
        stack.callback(written.cancel)
        service.runner.add(work)
        reply = Reply(written)
        if body.stream:
            stack.pop_all()
            return CompletionStream(written, job, reply.frames())
        for info in await unless_gone(until_deadline(written, job), request):
            reply.take(info)
    return await answer(service, job.client, reply.result)


class Reply:
    """An answer as it grows."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._splitter = ThoughtSplitter(written.prompt.encoded.text)
        self._words = {"thinking": "", "content": ""}

    def take(self, info: TokenInfo) -> list[Said]:
        """One more token; tokens that share a character come with the first of them."""
        is_text = info.section != "footer" and info.fragment_index == 0
        return self._keep(self._splitter.push(info.token)) if is_text else []

    def result(self) -> ChatResult:
        """The whole answer."""
        self._keep(self._splitter.flush())
        message = ChatMessage(
            content=self._words["content"].strip(),
            reasoning_content=self._words["thinking"].strip() or None,
        )
        return ChatResult(
            message=message,
            finish_reason="stop" if self._written.has_ended else "length",
            prompt_tokens=len(self._written.prompt.encoded.ids),
            completion_tokens=self._written.num_tokens,
            notices=list(self._written.prompt.notices),
        )

    async def frames(self) -> AsyncIterator[bytes]:
        """The words as they come, then the whole."""
        try:
            async for info in self._written.infos():
                for said in self.take(info):
                    yield frame({"type": "text", **said._asdict()})
            for said in self._keep(self._splitter.flush()):
                yield frame({"type": "text", **said._asdict()})
            yield frame({"type": "done", **self.result().model_dump()})
        except Unavailable as error:
            yield frame({"error": str(error)})
        yield DONE

    def _keep(self, said: list[Said]) -> list[Said]:
        for each in said:
            self._words[each.section] += each.text
        return said
