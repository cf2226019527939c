"""Messages as Inspect and Docent write them: flat calls, blocks of reasoning, errors of tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from nlakit.transcript import Message, ToolCall

from .base import Blocks, Row, not_one, text_or_none, tool_call


def read_messages(listed: Iterable[Any], omitted: Counter[str], where: str) -> Iterator[Message]:
    """Messages in their own shape. Raises `InputError` for what is none."""
    for index, raw in enumerate(listed):
        if not isinstance(raw, dict) or not isinstance(raw.get("role"), str):
            raise not_one(raw, f"{where}, message {index}", "an object with a role")
        blocks = Blocks.of(raw.get("content"))
        omitted.update(blocks.omitted)
        yield _message(raw, blocks)
        for call_id, text in blocks.results:
            yield Message.of("tool", text, tool_call_id=call_id)


def _message(raw: Row, blocks: Blocks) -> Message:
    calls = [_call(each) for each in raw.get("tool_calls") or () if isinstance(each, dict)]
    text = blocks.text
    error = raw.get("error")
    if not text and isinstance(error, dict):
        text = text_or_none(error.get("message"))
    spoken = raw["role"] != "assistant" and text is None
    return Message.of(
        raw["role"],
        "" if spoken else text,
        thinking=blocks.thinking,
        tool_calls=[*blocks.calls, *calls],
        tool_call_id=text_or_none(raw.get("tool_call_id")),
        name=_name(raw),
    )


def _name(raw: Row) -> str | None:
    return text_or_none(raw.get("function")) if raw["role"] == "tool" else None


def _call(raw: Row) -> ToolCall:
    function = raw.get("function")
    if isinstance(function, dict):
        return tool_call(function.get("name"), function.get("arguments"), raw.get("id"))
    return tool_call(function, raw.get("arguments"), raw.get("id"))
