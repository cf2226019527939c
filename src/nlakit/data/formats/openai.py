"""OpenAI's chat format, which most data sets use: `messages` of role, content and tool calls."""

from __future__ import annotations

import json
from typing import Any

from nlakit.transcript import KNOWN_FIELDS, Message, Transcript, parse_messages

from .base import Row, RowFormat, not_one, own_id, scalars, tools_of, with_system

LISTS = ("messages", "conversation", "conversations")


def matches(row: Row) -> bool:
    return any(isinstance(row.get(name), list | str) and row[name] for name in LISTS) or (
        isinstance(row.get("body"), dict) and "messages" in row["body"]
    )


def read(row: Row, where: str) -> list[Transcript]:
    inner = row["body"] if isinstance(row.get("body"), dict) else row
    name = next((each for each in LISTS if inner.get(each)), "messages")
    listed = decoded(inner.get(name))
    if not isinstance(listed, list):
        raise not_one(row, where, f"a list of messages in `{name}`")
    parsed = parse_messages([_kept(each) for each in listed], where)
    messages = tuple(with_system(inner.get("system"), list(parsed)))
    tools = tools_of(decoded(inner.get("tools")) or decoded(inner.get("functions")))
    identity = own_id(row, "id", "conversation_id", "conversation_hash", "custom_id")
    return [Transcript(identity, messages, tools, scalars(row, ("id", "system")))]


def decoded(value: Any) -> Any:
    """A value, or what its JSON says: columns of some data sets hold JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _kept(raw: Any) -> Any:
    """A message without notes about it (language, toxicity, ratings …)."""
    if isinstance(raw, Message) or not isinstance(raw, dict):
        return raw
    kept = {n: v for n, v in raw.items() if n in KNOWN_FIELDS and (v is not None or n == "content")}
    if isinstance(raw.get("function_call"), dict) and not kept.get("tool_calls"):
        kept["tool_calls"] = [{"type": "function", "function": raw["function_call"]}]
    if raw.get("role") == "function":  # what a tool's result was called before
        kept["role"] = "tool"
    if isinstance(raw.get("refusal"), str) and kept.get("content") is None:
        kept["content"] = raw["refusal"]
    return kept


FORMAT = RowFormat("openai", matches, read)
