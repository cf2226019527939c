"""The one way from a request, a text or messages, to the token ids that the target reads.

A text is what its tokenizer makes of it: special tokens that stand in it are special tokens, so a
conversation that somebody rendered already is read as one, and a BOS is added only where none is
there. What messages hold is plain text (`models.chat`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from nlakit.config import suggestion
from nlakit.errors import InputError
from nlakit.models.chat import Chat, ChatOptions, special_tokens
from nlakit.models.chat_spans import NO_SPAN, Section, Span
from nlakit.models.encoded import Encoded
from nlakit.models.target import Target
from nlakit.transcript import Message

Conversation = str | Sequence[Message | Mapping[str, Any]]
"""A text, or messages with `role` and `content`."""

PLAIN_TEXT = ChatOptions()


class ChatFields(TypedDict, total=False):
    """Keyword arguments that belong to messages (`models.chat.ChatOptions`)."""

    add_generation_prompt: bool
    continue_final_message: bool
    enable_thinking: bool | None
    tools: Sequence[dict[str, Any]]


def options_of(fields: ChatFields) -> ChatOptions:
    """The options that keyword arguments stand for. Raises `TypeError` for another argument."""
    unknown = sorted(set(fields) - set(ChatOptions._fields))
    if unknown:
        hint = suggestion(unknown[0], ChatOptions._fields)
        raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}.{hint}")
    return ChatOptions(
        add_generation_prompt=fields.get("add_generation_prompt", False),
        continue_final_message=fields.get("continue_final_message", False),
        enable_thinking=fields.get("enable_thinking"),
        tools=tuple(fields.get("tools", ())),
    )


@dataclass(frozen=True)
class Prompt:
    """A request as the target reads it.

    Attributes:
        chat: what the messages were rendered to; None for a text.
    """

    target: Target
    encoded: Encoded
    chat: Chat | None = None

    @cached_property
    def spans(self) -> list[Span]:
        """Per token whose message it belongs to; of a text nobody's."""
        return [NO_SPAN] * len(self.encoded.ids) if self.chat is None else self.chat.spans

    @cached_property
    def notices(self) -> tuple[str, ...]:
        """What a reader should know of how the request was read."""
        return _notices_of_text(self) if self.chat is None else self.chat.notices


def prepare(target: Target, request: Conversation, options: ChatOptions = PLAIN_TEXT) -> Prompt:
    """Encode a request.

    Args:
        options: for messages; a text has no use for them.

    Raises:
        InputError: neither a text nor messages, empty, longer than the target's context, or the
            chat template refuses the messages.
    """
    if isinstance(request, str):
        return Prompt(target, target.encode(request))
    _check_messages(request, options)
    chat = target.chat(request, options)
    if not chat.encoded.ids:
        raise InputError("The chat template makes no token of the messages. Give some content.")
    return Prompt(target, chat.encoded, chat)


def place_in_section(spans: Sequence[Span], section: Section, position: int) -> int:
    """The token that is number `position` of a section's; negative ones count from its end.

    Raises:
        InputError: the section has no such token.
    """
    inside = [place for place, span in enumerate(spans) if span.section == section]
    if not -len(inside) <= position < len(inside):
        raise InputError(
            f"Token {position} of the section {section!r} was asked for; the conversation has "
            f"{len(inside)} tokens of it."
        )
    return inside[position]


def _check_messages(request: object, options: ChatOptions) -> None:
    if request is None or isinstance(request, bytes) or not isinstance(request, Sequence):
        raise InputError(
            f"Expected a text or a list of messages, found {type(request).__name__}: {request!r}."
        )
    if any(isinstance(each, str) for each in request):
        raise InputError(
            f"Found a list of {len(request)} texts; one text or one conversation is read at a "
            "time. Call once for each text, or give messages, such as "
            "[{'role': 'user', 'content': …}]."
        )
    if options.continue_final_message and options.add_generation_prompt:
        raise InputError(
            "`continue_final_message` cannot be combined with `add_generation_prompt`. Set "
            "`add_generation_prompt` to false with it."
        )


def _notices_of_text(prompt: Prompt) -> tuple[str, ...]:
    """A conversation that was rendered already can be told by its special tokens."""
    target, text = prompt.target, prompt.encoded.text
    bos = str(target.tokenizer.bos_token or "")
    body = text.removeprefix(bos) if bos else text
    found = [name for name in special_tokens(target.tokenizer) if name in body]
    if not found or not target.tokenizer.chat_template:
        return ()
    return (
        f"The text holds special tokens ({', '.join(sorted(found))}), which are read as such. "
        "If it is a conversation, give its messages instead, so that nobody's words can become a "
        "role: [{'role': 'user', 'content': …}], on the command line with --messages.",
    )
