"""A request's text or conversation as the target reads it, every token with its place.

A text is what the tokenizer makes of it: special tokens that it spells are special tokens, so that
a conversation which a client rendered itself is read as one. The contents of messages are plain: a
role token, BOS or the marker character inside one never becomes the token of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2

from nlakit.contract import encode_with_offsets
from nlakit.errors import InputError
from nlakit.models.target import Encoded, Target

from .schemas import PromptRequest, TokenInfo, WireMessage
from .spans import NO_SPAN, Fragment, Span, Turn, chat_spans, fragments

TEMPLATE_FAILURES = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError),
    *(TypeError, ValueError),
)
"""A template is a program from a checkpoint: what it raises is about the messages it was given."""
PRIVATE_USE = range(0xE000, 0xF8FF)


@dataclass(frozen=True)
class Prompt:
    """What the target reads.

    Attributes:
        encoded: ids, offsets into `encoded.text`, and that text.
        pieces, spans: per token.
    """

    encoded: Encoded
    pieces: list[Fragment]
    spans: list[Span]

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
    if request.messages:
        encoded, spans = Chat(target, request).read()
    elif request.text:
        encoded = encode_text(target, request.text)
        spans = [NO_SPAN] * len(encoded.ids)
    else:
        raise InputError("Provide either `text` or `messages`.")
    if not encoded.ids:
        raise InputError("The request has no tokens. Give at least one word.")
    return Prompt(encoded, fragments(encoded.ids, decoder(target)), spans)


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


class Piece(NamedTuple):
    """A stretch of a rendered conversation; `plain`: no special token may be read in it."""

    text: str
    plain: bool


class Chat:
    """The messages of one request, rendered in several ways by the target's chat template."""

    def __init__(self, target: Target, request: PromptRequest) -> None:
        assert request.messages
        if not target.tokenizer.chat_template:
            raise InputError("The target's tokenizer has no chat template. Give plain text.")
        self.target, self.request = target, request
        messages: list[WireMessage] = request.messages
        self.veil = Veil(special_tokens(target), (each.content for each in messages))
        self.messages = [self._message(each) for each in messages]
        self.turns = [Turn(each.role, each.channel) for each in messages]
        # A conversation is rendered up to each message, with and without that one's content.
        self._ids = lru_cache(maxsize=None)(self._ids_of)

    def read(self) -> tuple[Encoded, list[Span]]:
        """The conversation as the target reads it.

        Raises:
            InputError: the template refuses it, or it is longer than the target's context.
        """
        held_open, add_prompt = self._ending()
        encoded = self._encode(
            self.messages, add_generation_prompt=add_prompt, continue_final_message=held_open
        )
        _check_length(len(encoded.ids), self.target)
        return encoded, chat_spans(encoded.ids, self.turns, self._ids, held_open)

    def _ending(self) -> tuple[bool, bool]:
        """Whether the final message is held open, or a generation prompt follows it."""
        held_open = self.request.continue_final_message
        if held_open and self.request.add_generation_prompt:
            raise InputError(
                "`continue_final_message` cannot be combined with `add_generation_prompt`, which "
                "is true by default. Send `add_generation_prompt: false` with it."
            )
        return held_open, self.request.add_generation_prompt

    def _ids_of(self, count: int, emptied: bool) -> list[int] | None:
        messages = self.messages[:count]
        if emptied:
            messages = [*messages[:-1], {**messages[-1], "content": ""}]
        try:
            return self._encode(messages).ids
        except InputError:
            return None

    def _encode(self, messages: list[dict[str, Any]], **options: bool) -> Encoded:
        return join(self.target, self.veil.pieces(self._render(messages, options)))

    def _render(self, messages: list[dict[str, Any]], options: dict[str, bool]) -> str:
        chosen: dict[str, Any] = {**options, "tokenize": False}
        if self.request.enable_thinking is not None:
            chosen["enable_thinking"] = self.request.enable_thinking
        try:
            rendered = self.target.tokenizer.apply_chat_template(messages, **chosen)
        except TEMPLATE_FAILURES as error:
            raise InputError(f"The target's chat template refuses the messages: {error}") from error
        return str(rendered)

    def _message(self, message: WireMessage) -> dict[str, Any]:
        made = {"role": message.role, "content": self.veil.cover(message.content)}
        return made if message.channel is None else {**made, "channel": message.channel}


class Veil:
    """Hides special tokens that people wrote from the template and the tokenizer.

    Each is replaced by one private-use character that nobody wrote, and comes back as plain text.
    """

    def __init__(self, specials: Sequence[str], contents: Iterable[str]) -> None:
        written = "".join(contents)
        found = [each for each in specials if each in written]
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in written)
        self._signs = dict(zip(found, free, strict=False))
        self._words = {sign: word for word, sign in self._signs.items()}

    def cover(self, content: str) -> str:
        """The content without special tokens."""
        for word, sign in self._signs.items():
            content = content.replace(word, sign)
        return content

    def pieces(self, rendered: str) -> list[Piece]:
        """A rendered conversation, what was hidden being pieces of plain text."""
        found, start = [], 0
        places = [place for place, char in enumerate(rendered) if char in self._words]
        for place in places:
            hidden = self._words[rendered[place]]
            found += [Piece(rendered[start:place], False), Piece(hidden, True)]
            start = place + 1
        return [piece for piece in [*found, Piece(rendered[start:], False)] if piece.text]


def special_tokens(target: Target) -> list[str]:
    """Names of the target's special tokens, long ones first: one may hold another."""
    added = target.tokenizer.added_tokens_decoder.values()
    return sorted((each.content for each in added if each.special), key=len, reverse=True)


def join(target: Target, pieces: Sequence[Piece]) -> Encoded:
    """The pieces encoded one by one; offsets are into their joined text."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    text = ""
    for piece in pieces:
        encoded = encode_with_offsets(target.tokenizer, piece.text, plain=piece.plain)
        ids += encoded.ids
        shift = len(text)
        offsets += [(start + shift, end + shift) for start, end in encoded.offsets]
        text += piece.text
    return Encoded(ids, offsets, [text[a:b] for a, b in offsets], text)


def _check_length(num_tokens: int, target: Target) -> None:
    if num_tokens > target.max_tokens:
        raise InputError(
            f"The text is {num_tokens} tokens long; the target reads at most "
            f"{target.max_tokens}. Shorten it or read it in parts."
        )
