"""Conversations as chat templates take them: typed messages, and what is known of a transcript.

A `Message` keeps the mapping it was made from, key for key and in order, because a chat template
may write any field of it (`tool_call | tojson` writes a whole call). What we read of it is behind
properties. Knows nothing of tokenizers, templates and file formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nlakit.errors import InputError, UnreadableError

THINKING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names of the field that holds what an assistant thought before it answered."""
KNOWN_FIELDS = frozenset(
    {"role", "content", "name", "channel", "tool_calls", "tool_call_id", *THINKING_FIELDS}
)
"""What decides whether two messages say the same; other fields are notes about a message."""
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
THINKING_PARTS = frozenset({"thinking", "reasoning"})
SHAPE = "A message is an object with a `role` and `content` (text, null or a list of parts)."


class ToolCall(NamedTuple):
    """A call of a tool by an assistant.

    Attributes:
        arguments: an object; or text, where they are not the JSON of one.
    """

    name: str
    arguments: dict[str, Any] | str
    id: str | None = None

    def field(self) -> dict[str, Any]:
        """The call as a chat template takes it."""
        function = {"name": self.name, "arguments": self.arguments}
        made = {"type": "function", "function": function}
        return made if self.id is None else {"id": self.id, **made}


@dataclass(frozen=True)
class Message:
    """One message. Make it with `Message.parse` or `Message.of`.

    Attributes:
        fields: the mapping that the chat template gets.
    """

    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: object, where: str = "The message") -> Message:
        """A message in the shape that chat templates and OpenAI's interface share.

        Args:
            where: names the message in errors.

        Raises:
            InputError: it has no role or nothing to say, its content or a call is of another shape,
                or a text in it holds half of a surrogate pair.
        """
        if isinstance(raw, Message):
            return raw
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: found {_shown(raw)}. {SHAPE}")
        role = raw.get("role")
        if not isinstance(role, str) or not role:
            raise InputError(f"{where}: its role is {_shown(role)}, expected a name. {SHAPE}")
        if not raw.keys() & {"content", "tool_calls", *THINKING_FIELDS}:
            raise InputError(f"{where}: it has no content; found {_shown(dict(raw))}. {SHAPE}")
        _check_content(raw.get("content"), where)
        _check_calls(raw.get("tool_calls"), where)
        _check_thinking(raw, where)
        check_unicode(raw, where)
        return cls(dict(raw))

    @classmethod
    def of(
        cls,
        role: str,
        content: str | None = None,
        *,
        thinking: str | None = None,
        tool_calls: Iterable[ToolCall] = (),
        tool_call_id: str | None = None,
        name: str | None = None,
    ) -> Message:
        """A message from what a reader of another format found; raises as `parse`."""
        made: dict[str, Any] = {"role": role, "content": content}
        if thinking:
            made["reasoning_content"] = thinking
        calls = [call.field() for call in tool_calls]
        if calls:
            made["tool_calls"] = calls
        optional = {"tool_call_id": tool_call_id, "name": name}
        return cls.parse({**made, **{key: each for key, each in optional.items() if each}})

    @property
    def role(self) -> str:
        return self.fields["role"]

    @property
    def channel(self) -> str | None:
        found = self.fields.get("channel")
        return found if isinstance(found, str) else None

    @property
    def text(self) -> str:
        """What the content says: the text itself, or its text parts one after the other."""
        content = self.fields.get("content")
        if isinstance(content, str):
            return content
        return "\n".join(text for text in map(part_text, content or ()) if text is not None)

    @property
    def thinking(self) -> str | None:
        """What stands in a field of its own; a <think> block inside the content is text."""
        found = (self.fields.get(name) for name in THINKING_FIELDS)
        return next((each for each in found if isinstance(each, str) and each), None)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls; arguments that are the JSON of an object are that object."""
        return tuple(_call(raw) for raw in self.fields.get("tool_calls") or ())

    @property
    def known_fields(self) -> dict[str, Any]:
        """The fields that say something, notes about the message left out."""
        return {
            name: value
            for name, value in self.fields.items()
            if name == "content" or (name in KNOWN_FIELDS and value is not None)
        }


@dataclass(frozen=True)
class Transcript:
    """A conversation, with what is known of it.

    Attributes:
        id: unique within its source.
        tools: schemas of the tools that the assistant could call, where the source has them.
        metadata: plain values about the transcript: model, score, epoch, file …
        notes: what a reader left out, in words.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def parse_messages(raw: object, where: str = "The conversation") -> tuple[Message, ...]:
    """A list of messages. Raises `InputError` as `Message.parse`, or where it is none or empty."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise InputError(f"{where}: expected a list of messages, found {_shown(raw)}. {SHAPE}")
    if not raw:
        raise InputError(f"{where} is empty. Give at least one message.")
    return tuple(Message.parse(each, f"{where}, message {i}") for i, each in enumerate(raw))


def part_text(part: object) -> str | None:
    """The text of a part of a content; None where it is no text (an image, say)."""
    if isinstance(part, str):
        return part
    assert isinstance(part, Mapping)
    kind = part.get("type", "text")
    found = part.get("text") if kind in TEXT_PARTS else None
    return found if isinstance(found, str) else None


def as_object(arguments: object) -> dict[str, Any] | None:
    """Arguments of a call as the object that they are, or that their JSON says; else None."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return arguments if isinstance(arguments, dict) else None


def str_of(value: Any) -> str:
    """All texts within a value, one after the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(map(str_of, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return "".join(map(str_of, value))
    return ""


def check_unicode(value: object, where: str) -> None:
    """Raise `UnreadableError` where a text within a value holds half of a surrogate pair."""
    if isinstance(value, str):
        bad = next((i for i, c in enumerate(value) if "\ud800" <= c <= "\udfff"), None)
        if not value.isascii() and bad is not None:
            raise UnreadableError(
                f"{where}: character {bad} is {value[bad]!r}, half of a surrogate pair, which no "
                "tokenizer reads. Replace it: text.encode('utf-8', 'replace').decode()."
            )
    elif isinstance(value, Mapping):
        for name, each in value.items():
            check_unicode(name, where)
            check_unicode(each, where)
    elif isinstance(value, list | tuple):
        for each in value:
            check_unicode(each, where)


def _check_content(content: object, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list | tuple):
        raise InputError(f"{where}: its content is {_shown(content)}. {SHAPE}")
    for number, part in enumerate(content):
        if not isinstance(part, str | Mapping):
            raise InputError(
                f"{where}: part {number} of its content is {_shown(part)}, expected an object "
                'such as {"type": "text", "text": …}.'
            )


def _check_calls(calls: object, where: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list | tuple):
        raise InputError(f"{where}: its tool_calls are {_shown(calls)}, expected a list.")
    for number, call in enumerate(calls):
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise InputError(
                f"{where}: tool call {number} is {_shown(call)}, expected an object such as "
                '{"type": "function", "function": {"name": …, "arguments": {…}}}.'
            )


def _check_thinking(raw: Mapping[str, Any], where: str) -> None:
    for name in THINKING_FIELDS:
        if not isinstance(raw.get(name), str | None):
            raise InputError(f"{where}: its {name} is {_shown(raw[name])}, expected text.")


def _call(raw: Mapping[str, Any]) -> ToolCall:
    inner = raw.get("function", raw)
    arguments = inner.get("arguments") or {}
    found = as_object(arguments)
    if found is None:
        found = arguments if isinstance(arguments, str) else json.dumps(arguments)
    own = raw.get("id")
    return ToolCall(inner["name"], found, own if isinstance(own, str) else None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
