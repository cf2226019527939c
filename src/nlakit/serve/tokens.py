"""A request's text or conversation as the target reads it, every token with its place.

A text is what the tokenizer makes of it: special tokens that it spells are special tokens, so that
a conversation which a client rendered itself is read as one. The contents of messages are plain: a
role token, BOS or the marker character inside one never becomes the token of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nlakit.contract import encode_with_offsets
from nlakit.errors import InputError
from nlakit.models.chat import Chat, ChatOptions
from nlakit.models.chat_spans import NO_SPAN, Span
from nlakit.models.target import Encoded, Target
from nlakit.transcript import Message

from .schemas import PromptRequest, TokenInfo
from .spans import Fragment, fragments


@dataclass(frozen=True)
class Prompt:
    """What the target reads.

    Attributes:
        encoded: ids, offsets into `encoded.text`, and that text.
        pieces, spans: per token.
        notices: what the chat template left out of the messages, or took in another form.
    """

    encoded: Encoded
    pieces: list[Fragment]
    spans: list[Span]
    notices: tuple[str, ...] = ()

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
    notices: tuple[str, ...] = ()
    if request.messages:
        chat = read_chat(target, request)
        encoded, spans, notices = chat.encoded, chat.spans, chat.notices
    elif request.text:
        encoded = encode_text(target, request.text)
        spans = [NO_SPAN] * len(encoded.ids)
    else:
        raise InputError("Provide either `text` or `messages`.")
    if not encoded.ids:
        raise InputError("The request has no tokens. Give at least one word.")
    return Prompt(encoded, fragments(encoded.ids, decoder(target)), spans, notices)


def read_chat(target: Target, request: PromptRequest) -> Chat:
    """A request's messages as the target's chat template writes them.

    Raises:
        InputError: the template refuses them, or they are longer than the target's context.
    """
    assert request.messages
    if request.continue_final_message and request.add_generation_prompt:
        raise InputError(
            "`continue_final_message` cannot be combined with `add_generation_prompt`, which "
            "is true by default. Send `add_generation_prompt: false` with it."
        )
    options = ChatOptions(
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        enable_thinking=request.enable_thinking,
        tools=tuple(request.tools or ()),
    )
    messages = [Message.parse(each.fields, "A message") for each in request.messages]
    chat = Chat(target.tokenizer, messages, options)
    _check_length(len(chat.encoded.ids), target)
    return chat


def encode_text(target: Target, text: str) -> Encoded:
    """A text as its tokenizer reads it, special tokens that stand in it included: clients render a
    conversation once, and ask for positions in that text.

    Nothing is added before a text that begins with BOS.
    """
    bos = str(target.tokenizer.bos_token or "")
    adds = not (bos and text.startswith(bos))
    ids, offsets = encode_with_offsets(target.tokenizer, text, add_special_tokens=adds)
    _check_length(len(ids), target)
    named = target.tokenizer.convert_ids_to_tokens(ids)
    pairs = zip(offsets, named, strict=True)
    tokens = [text[start:end] or str(name) for (start, end), name in pairs]
    return Encoded(ids, offsets, tokens, text)


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
    configs = (target.model.config, getattr(target.model, "generation_config", None))
    declared: list[Any] = [target.tokenizer.eos_token_id]
    declared += [getattr(config, "eos_token_id", None) for config in configs]
    listed = [each if isinstance(each, list) else [each] for each in declared]
    return {found for each in listed for found in each if found is not None}


def _check_length(num_tokens: int, target: Target) -> None:
    if num_tokens > target.max_tokens:
        raise InputError(
            f"The text is {num_tokens} tokens long; the target reads at most "
            f"{target.max_tokens}. Shorten it or read it in parts."
        )
