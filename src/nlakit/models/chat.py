"""Messages to token ids through a tokenizer's own chat template, every token with its span.

All that a template can write is written, and what it left out is told. What people wrote is plain
text: a role token or BOS inside a message never becomes the token of that name.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, product
from typing import Any, NamedTuple

from nlakit.contract import TemplateRefusal, encode_with_offsets, render_chat
from nlakit.errors import InputError, UnreadableError
from nlakit.transcript import (
    TEXT_PARTS,
    THINKING_FIELDS,
    THINKING_PARTS,
    Message,
    as_object,
    check_unicode,
    part_text,
    str_of,
)

from .chat_marks import NEVER_THINK, THINK_TAG, Marks, plain
from .chat_spans import Dropped, Interval, Layout, Span, lay_out, token_spans
from .encoded import Encoded

SPOKEN = ("content", *THINKING_FIELDS)
"""Fields that hold what a model wrote, its thoughts in it or apart."""
PRIVATE_USE = range(0xE000, 0xF8FF)


class ChatOptions(NamedTuple):
    """What a template is asked for beside the messages.

    Attributes:
        enable_thinking: handed to the template only when not None.
        tools: schemas of tools, for templates that list them.
    """

    add_generation_prompt: bool = False
    continue_final_message: bool = False
    enable_thinking: bool | None = None
    tools: tuple[dict[str, Any], ...] = ()


class Piece(NamedTuple):
    """A stretch of a rendered conversation; `plain`: no special token may be read in it."""

    text: str
    plain: bool


class Chat:
    """A conversation as a tokenizer's chat template writes it.

    Attributes:
        rendered: the text, with a sign for each special token that somebody wrote.
        changed: how messages had to be put for the template, in words.

    Raises:
        InputError: no messages, or no chat template.
        UnreadableError: a text with half of a surrogate pair, or the template refuses the messages.
    """

    def __init__(
        self, tokenizer: Any, messages: Sequence[Message], options: ChatOptions | None = None
    ) -> None:
        if not messages:
            raise InputError("The conversation is empty. Give at least one message.")
        if not tokenizer.chat_template:
            raise InputError("The target's tokenizer has no chat template. Give plain text.")
        self.tokenizer = tokenizer
        self.options = options or ChatOptions()
        raw = [plain(message.fields) for message in messages]
        check_unicode(raw, "The conversation")
        self.veil = Veil(special_tokens(tokenizer), str_of([raw, plain(self.options.tools)]))
        self.tools = self.veil.cover(plain(self.options.tools))
        self.given = [self._covered(each) for each in raw]
        self.messages, self.rendered, self.changed = self._first_that_fits(self.given)

    @cached_property
    def encoded(self) -> Encoded:
        """Ids, and offsets into the text that they spell."""
        return join(self.tokenizer, self.veil.pieces(self.rendered))

    @cached_property
    def spans(self) -> list[Span]:
        """Per token of `encoded`."""
        moved = self.veil.moves(self.rendered)
        intervals = [Interval(moved(a), moved(b), span) for a, b, span in self.layout.intervals]
        return token_spans(self.encoded.offsets, intervals)

    @cached_property
    def layout(self) -> Layout:
        """Whose each character of `rendered` is."""
        marks = Marks.of(self.messages, self._template)
        held_open = self.options.continue_final_message
        return lay_out(self.messages, self.rendered, marks, self._try, held_open)

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What the messages say and the target does not read, in order."""
        return tuple(sorted({*self.layout.dropped, *_unreadable(self.given)}))

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader of this conversation should know of how it was rendered."""
        left_out = [f"The chat template left out: {_listed(self.dropped)}."] if self.dropped else []
        unlisted = self.tools and self._render(self.messages, tools=False) == self.rendered
        tools = ["The chat template does not list tools."] if unlisted else []
        hidden = self.veil.hidden_in(str_of([self.given, self.tools]))
        signs = f"Special tokens in messages are read as plain text: {', '.join(hidden)}."
        return (*self.changed, *left_out, *tools, *([signs] if hidden else []))

    def _covered(self, message: dict[str, Any]) -> dict[str, Any]:
        own = thought_tags(message)
        return {name: self.veil.cover(each, own if name in SPOKEN else frozenset())
                for name, each in message.items()}  # fmt: skip

    # -- rendering ---------------------------------------------------------------------------------
    def _first_that_fits(
        self, messages: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], str, tuple[str, ...]]:
        """The messages in the first form that the template writes in full, else the first it takes.

        Templates differ in whether they take a content in parts, one that is null, and arguments of
        calls as an object or as its JSON; the wrong form is refused, passed over, or written as
        source code.
        """
        taken = failure = None
        choices = _content_forms(messages), _null_forms(messages), _argument_forms(messages)
        for forms in product(*choices):
            made = messages
            for form in forms:
                made = [form.change(each) for each in made]
            try:
                rendered = self._render(made)
            except InputError as error:
                failure = failure or error
                continue
            found = made, rendered, tuple(form.says for form in forms if form.says)
            if not any(form.garbled(rendered, each) for form in forms for each in made):
                return found
            taken = taken or found
        if taken is None:
            assert failure is not None
            raise failure
        return taken

    def _render(
        self, messages: list[dict[str, Any]], whole: bool = True, tools: bool = True
    ) -> str:
        options: dict[str, Any] = {}
        if whole:
            options["add_generation_prompt"] = self.options.add_generation_prompt
            options["continue_final_message"] = self.options.continue_final_message
        if self.options.enable_thinking is not None:
            options["enable_thinking"] = self.options.enable_thinking
        if tools and self.tools:
            options["tools"] = self.tools
        try:
            return render_chat(self.tokenizer, messages, **options)
        except TemplateRefusal as error:
            raise UnreadableError(
                f"The target's chat template refuses the messages: {self.veil.lifted(str(error))}"
            ) from error

    def _try(self, messages: list[dict[str, Any]], whole: bool) -> str | None:
        try:
            return self._render(messages, whole)
        except InputError:
            return None

    @property
    def _template(self) -> str:
        try:
            return self.tokenizer.get_chat_template(tools=self.tools or None)
        except ValueError:  # several templates, none of them for this
            return ""


# -- forms of a message ----------------------------------------------------------------------------
class Form(NamedTuple):
    """A way to put a field of messages.

    Attributes:
        garbled: whether a rendered text holds what is in the message as source code.
        says: what was changed; empty for messages as they were given.
    """

    change: Callable[[dict[str, Any]], dict[str, Any]]
    garbled: Callable[[str, Mapping[str, Any]], bool]
    says: str = ""


def _content_forms(messages: Sequence[Mapping[str, Any]]) -> list[Form]:
    """Contents in parts as they are, else as the text of the parts."""
    if not any(isinstance(each.get("content"), list) for each in messages):
        return [Form(_same, _never)]
    return [
        Form(_same, _written_as_source),
        Form(_joined, _never, "The parts of contents are joined: the template takes text alone."),
    ]


def _null_forms(messages: Sequence[Mapping[str, Any]]) -> list[Form]:
    """Contents that are null as they are (transformers leaves the field out), else as no text."""
    if all(each.get("content") is not None for each in messages):
        return [Form(_same, _never)]
    says = "Contents that are null are handed to the template as empty text."
    return [Form(_same, _never), Form(_emptied, _never, says)]


def _argument_forms(messages: Sequence[Mapping[str, Any]]) -> list[Form]:
    """Arguments of calls as they are, else as objects, else as the JSON of objects."""
    calls = [call for each in messages for call in each.get("tool_calls") or ()]
    given = [call.get("function", call).get("arguments") for call in calls]
    objects = Form(
        _with_objects, _never, "Arguments of tool calls are handed to the template as objects."
    )
    texts = Form(_with_json, _never, "Arguments of tool calls are handed to the template as JSON.")
    forms = [Form(_same, _quoted_twice)]
    forms += [objects] if any(isinstance(as_object(each), dict) for each in given) else []
    return [*forms, texts] if any(isinstance(each, dict) for each in given) else forms


def _same(message: dict[str, Any]) -> dict[str, Any]:
    return message


def _never(rendered: str, message: Mapping[str, Any]) -> bool:
    return False


def _written_as_source(rendered: str, message: Mapping[str, Any]) -> bool:
    """Whether a list of parts was written as a list, or its text not at all."""
    content = message.get("content")
    if not isinstance(content, list):
        return False
    if str(content) in rendered or json.dumps(content, ensure_ascii=False) in rendered:
        return True
    texts = (part_text(part) for part in content)
    return any(text.strip() not in rendered for text in texts if text)


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    said = Message(message)
    parts = (each for each in content if isinstance(each, Mapping))
    thoughts = [each[kind] for each in parts if (kind := each.get("type")) in THINKING_PARTS
                and isinstance(each.get(kind), str)]  # fmt: skip
    made = {**message, "content": said.text}
    # Thoughts have a field of their own where contents are text.
    return {**made, THINKING_FIELDS[0]: "\n".join(thoughts)} if thoughts else made


def _emptied(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": ""} if message.get("content") is None else message


def _quoted_twice(rendered: str, message: Mapping[str, Any]) -> bool:
    """Whether the JSON of arguments was written as a string of JSON."""
    for call in message.get("tool_calls") or ():
        arguments = call.get("function", call).get("arguments")
        if not isinstance(arguments, str) or as_object(arguments) is None:
            continue
        if json.dumps(arguments, ensure_ascii=False) in rendered and arguments not in rendered:
            return True
    return False


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    return _with_arguments(
        message, lambda given: given if as_object(given) is None else as_object(given)
    )


def _with_json(message: dict[str, Any]) -> dict[str, Any]:
    return _with_arguments(
        message,
        lambda given: given if isinstance(given, str) else json.dumps(given, ensure_ascii=False),
    )


def _with_arguments(message: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        inner = call.get("function", call)
        changed = {**inner, "arguments": change(inner.get("arguments"))}
        calls.append({**call, "function": changed} if "function" in call else changed)
    return {**message, "tool_calls": calls}


def _unreadable(messages: Sequence[Mapping[str, Any]]) -> Iterator[Dropped]:
    """Parts of contents that are no text; a sign that a template writes for one says nothing."""
    for index, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in TEXT_PARTS | THINKING_PARTS:
                yield Dropped(index, f"{kind} part")


def _listed(dropped: Sequence[Dropped]) -> str:
    named = [f"{each.what} of message {each.message_index}" for each in dropped[:5]]
    more = len(dropped) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


# -- special tokens that people wrote --------------------------------------------------------------
class Veil:
    """Hides special tokens that people wrote from the template and the tokenizer.

    Each is replaced by one private-use character that nobody wrote, and comes back as plain text.
    """

    def __init__(self, specials: Sequence[str], written: str) -> None:
        found = [each for each in specials if each in written]
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in written)
        self._signs = dict(zip(found, free, strict=False))
        self._words = {sign: word for word, sign in self._signs.items()}

    def hidden_in(self, covered: str) -> list[str]:
        """The special tokens that are hidden in a text."""
        return [word for word, sign in self._signs.items() if sign in covered]

    def cover(self, value: Any, spared: frozenset[str] = frozenset()) -> Any:
        """A value whose texts hold no special token but those that are spared."""
        if isinstance(value, str):
            for word, sign in self._signs.items():
                value = value if word in spared else value.replace(word, sign)
            return value
        if isinstance(value, dict):
            return {name: self.cover(each, spared) for name, each in value.items()}
        return [self.cover(each, spared) for each in value] if isinstance(value, list) else value

    def lifted(self, text: str) -> str:
        """A text as it was written."""
        return "".join(self._words.get(character, character) for character in text)

    def moves(self, rendered: str) -> Callable[[int], int]:
        """Where places of a rendered text stand once the text is as it was written."""
        signs = [place for place, character in enumerate(rendered) if character in self._words]
        longer = (len(self._words[rendered[place]]) - 1 for place in signs)
        shifts = [0, *accumulate(longer)]
        return lambda place: place + shifts[bisect_left(signs, place)]

    def pieces(self, rendered: str) -> list[Piece]:
        """A rendered conversation, what was hidden being pieces of plain text."""
        found, start = [], 0
        places = [place for place, char in enumerate(rendered) if char in self._words]
        for place in places:
            hidden = self._words[rendered[place]]
            found += [Piece(rendered[start:place], False), Piece(hidden, True)]
            start = place + 1
        return [piece for piece in [*found, Piece(rendered[start:], False)] if piece.text]


def thought_tags(message: Mapping[str, Any]) -> frozenset[str]:
    """The tags around an answer's thoughts: its model wrote them as tokens, and templates look for
    them."""
    if message.get("role") in NEVER_THINK:
        return frozenset()
    said = str_of([message.get(name) for name in SPOKEN])
    return frozenset(tag[0] for tag in THINK_TAG.finditer(said))


def special_tokens(tokenizer: Any) -> list[str]:
    """Names of a tokenizer's special tokens, long ones first: one may hold another."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted((each.content for each in added if each.special), key=len, reverse=True)


def join(tokenizer: Any, pieces: Sequence[Piece]) -> Encoded:
    """The pieces encoded one by one; offsets are into their joined text."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    text = ""
    for piece in pieces:
        found = encode_with_offsets(tokenizer, piece.text, plain=piece.plain)
        ids += found.ids
        offsets += [(start + len(text), end + len(text)) for start, end in found.offsets]
        text += piece.text
    return Encoded(ids, offsets, [text[a:b] for a, b in offsets], text)
