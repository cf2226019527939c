"""Anthropic's messages: `system` on its own, contents in blocks, results of tools in user turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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
OTHER_FIELDS = frozenset({"tool_calls", "tool_call_id", "reasoning_content"})


def matches(row: Row) -> bool:
    listed = row.get("messages")
    if not isinstance(listed, list) or not any(map(_has_own_block, listed)):
        return False
    # Thoughts may stand as blocks beside OpenAI's fields, which this reader does not know.
    return not any(isinstance(each, dict) and each.keys() & OTHER_FIELDS for each in listed)


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
                for part in _parts(role, content):
                    messages += messages_of(role, Blocks.of(part), omitted)
            case _:
                raise not_one(raw, f"{where}, message {index}", "an object with role and content")
    messages = with_system(row.get("system"), messages)
    tools = tools_of(row.get("tools"))
    return [Transcript(own_id(row, "id"), tuple(messages), tools, scalars(row), notes_of(omitted))]


def _parts(role: str, content: Any) -> Iterator[Any]:
    """A content cut behind each result of a tool that ran within an assistant's turn."""
    if role != "assistant" or not isinstance(content, list):
        yield content
        return
    start = 0
    for index, block in enumerate(content, start=1):
        kind = block.get("type") if isinstance(block, dict) else None
        if index == len(content) or str(kind).endswith("tool_result"):
            yield content[start:index]
            start = index


def messages_of(role: str, blocks: Blocks, omitted: Counter[str]) -> Iterator[Message]:
    """A turn as messages. Results of tools become tool messages: before what a user adds to them,
    behind the calls of an assistant whose provider ran them."""
    omitted.update(blocks.omitted)
    results = [Message.of("tool", text, tool_call_id=name) for name, text in blocks.results]
    said = blocks.text is not None or blocks.thinking or blocks.calls
    own = []
    if said or not results:
        text = blocks.text if said else ""
        own = [Message.of(role, text, thinking=blocks.thinking, tool_calls=blocks.calls)]
    yield from [*own, *results] if role == "assistant" else [*results, *own]


FORMAT = RowFormat("anthropic", matches, read)
