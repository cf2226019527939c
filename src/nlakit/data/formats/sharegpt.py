"""ShareGPT: `conversations` of `from` (human, gpt, system, tool …) and `value`."""

from __future__ import annotations

import json
from typing import Any

from nlakit.transcript import Message, ToolCall, Transcript, as_object

from .base import Row, RowFormat, not_one, own_id, scalars, tool_call, tools_of, with_system
from .openai import decoded

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}


def matches(row: Row) -> bool:
    turns = decoded(row.get("conversations"))
    return isinstance(turns, list) and any(isinstance(t, dict) and "from" in t for t in turns)


def read(row: Row, where: str) -> list[Transcript]:
    turns = decoded(row["conversations"])
    made = [_message(turn, f"{where}, turn {index}") for index, turn in enumerate(turns)]
    messages = tuple(with_system(row.get("system"), made))
    tools = tools_of(decoded(row.get("tools")))
    return [Transcript(own_id(row, "id"), messages, tools, scalars(row, ("id", "system")))]


def _message(turn: Any, where: str) -> Message:
    match turn:
        case {"from": str(speaker), "value": str(value)} if speaker in ROLES:
            pass
        case {"from": str(speaker)} if speaker not in ROLES:
            raise not_one(turn, where, f"`from` to be one of {', '.join(sorted(ROLES))}")
        case _:
            raise not_one(turn, where, "an object with `from` and `value`")
    if speaker == "function_call":
        return Message.of("assistant", tool_calls=_calls(value))
    return Message.parse({"role": ROLES[speaker], "content": value}, where)


def _calls(value: str) -> list[ToolCall]:
    """One call or a list of calls, as JSON; what is no call is one of no name."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    listed = found if isinstance(found, list) else [found]
    calls = [each for each in listed if isinstance(each, dict) and "name" in each]
    if not calls:
        return [ToolCall("unnamed", value)]
    return [
        tool_call(e["name"], as_object(e.get("arguments")) or e.get("arguments")) for e in calls
    ]


FORMAT = RowFormat("sharegpt", matches, read)
