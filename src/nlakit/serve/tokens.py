"""A request's text or conversation as the target reads it, every token with its place.

How a request becomes token ids is said in `pair.conversation`; here are the records of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nlakit.errors import InputError
from nlakit.models.chat import ChatOptions
from nlakit.models.chat_spans import Span
from nlakit.models.endings import endings_of
from nlakit.models.target import Encoded, Target
from nlakit.pair.conversation import prepare as read_request
from nlakit.transcript import Message, str_of

from .schemas import PromptRequest, TokenInfo
from .settings import LIMITS
from .spans import Fragment, fragments


@dataclass(frozen=True)
class Prompt:
    """What the target reads.

    Attributes:
        encoded: ids, offsets into `encoded.text`, and that text.
        pieces, spans: per token.
        notices: what the chat template left out of the messages, or took in another form.
        messages: of a conversation.
    """

    encoded: Encoded
    pieces: list[Fragment]
    spans: list[Span]
    notices: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()

    def info(self, position: int) -> TokenInfo:
        """The record of one token."""
        return token_info(
            position, self.encoded.ids[position], self.pieces[position], self.spans[position]
        )

    def infos(self) -> list[TokenInfo]:
        """The records of all tokens."""
        return [self.info(position) for position in range(len(self.encoded.ids))]


def token_info(position: int, token_id: int, piece: Fragment, span: Span) -> TokenInfo:
    """A token's record."""
    return TokenInfo(
        token=piece.text,
        token_id=token_id,
        position=position,
        fragment_index=piece.index,
        fragment_count=piece.count,
        role=span.role,
        section=span.section,
        channel=span.channel,
        message_index=span.message_index,
    )


def prepare(target: Target, request: PromptRequest) -> Prompt:
    """Encode a request's messages, or else its text.

    Raises:
        InputError: neither is there, the template refuses, or it is too long for the target.
    """
    if not request.messages and not request.text:
        raise InputError("Provide either `text` or `messages`.")
    messages = [Message.parse(each.fields, "A message") for each in request.messages or ()]
    options = ChatOptions(
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        enable_thinking=request.enable_thinking,
        tools=tuple(request.tools or ()),
    )
    _check_characters(_num_characters(request))
    found = read_request(target, messages or str(request.text), options)
    if messages:
        _check_characters(len(found.encoded.text))
    pieces = fragments(found.encoded.ids, decoder(target))
    return Prompt(found.encoded, pieces, found.spans, found.notices, tuple(messages))


def decoder(target: Target) -> Any:
    """Ids to text, special tokens included, nothing tidied."""

    def decode(ids: list[int]) -> str:
        return str(
            target.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    return decode


def terminal_ids(target: Target) -> set[int]:
    """Ids that end what the target writes, by tokenizer, config or generation config."""
    return set(endings_of(target.model, target.tokenizer))


def _num_characters(request: PromptRequest) -> int:
    """What somebody wrote into messages."""
    written = [list(each.fields.values()) for each in request.messages or ()]
    return len(str_of([request.tools, *written]))


def _check_characters(num_chars: int) -> None:
    """Raise `InputError`, in the wire's wording."""
    if num_chars > LIMITS.max_input_chars:
        raise InputError(f"Rendered chat exceeds {LIMITS.max_input_chars} chars.")
