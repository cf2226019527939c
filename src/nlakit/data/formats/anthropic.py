"""Anthropic's messages: `system` on its own, contents in blocks, results of tools in user turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from nlakit.transcript import Message, Transcript

from .base import (
    Blocks,
    Row,
    RowFormat,
    not_one,
    notes_of,
    own_id,
    scalars,
    tools_of,
    with_system,
)

OWN_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking"})


def matches(row: Row) -> bool:
    listed = row.get("messages")
    if not isinstance(listed, list):
        return False
    return isinstance(row.get("system"), str | list) or any(_has_own_block(each) for each in listed)


def _has_own_block(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else ()
    return any(isinstance(each, dict) and each.get("type") in OWN_BLOCKS for each in blocks)


def read(row: Row, where: str) -> list[Transcript]:
    omitted: Counter[str] = Counter()
    messages: list[Message] = []
    for index, raw in enumerate(row["messages"]):
        match raw:
            case {"role": str(role), "content": content}:
                messages += messages_of(role, Blocks.of(content), omitted)
            case _:
                raise not_one(raw, f"{where}, message {index}", "an object with role and content")
    messages = with_system(row.get("system"), messages)
    tools = tuple(as_function(tool) for tool in tools_of(row.get("tools")))
    return [Transcript(own_id(row, "id"), tuple(messages), tools, scalars(row), notes_of(omitted))]


def messages_of(role: str, blocks: Blocks, omitted: Counter[str]) -> Iterable[Message]:
    """A turn as messages: results of tools, which stand in a user's turn, become tool messages."""
    omitted.update(blocks.omitted)
    for call_id, text in blocks.results:
        yield Message.of("tool", text, tool_call_id=call_id)
    said = blocks.text is not None or blocks.thinking or blocks.calls
    if said or not blocks.results:
        text = blocks.text if said else ""
        yield Message.of(role, text, thinking=blocks.thinking, tool_calls=blocks.calls)


def as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool's schema as chat templates take it."""
    if "input_schema" not in tool:
        return tool
    named = {name: tool[name] for name in ("name", "description") if name in tool}
    return {"type": "function", "function": {**named, "parameters": tool["input_schema"]}}


FORMAT = RowFormat("anthropic", matches, read)
