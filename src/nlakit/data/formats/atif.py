"""ATIF, the Agent Trajectory Interchange Format (Harbor's `trajectory.json`): steps of an agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from nlakit.transcript import Message, Transcript

from .base import (
    Blocks,
    Row,
    RowFormat,
    not_one,
    notes_of,
    own_id,
    scalars,
    text_or_none,
    tool_call,
    tools_of,
)

ROLES = {"system": "system", "user": "user", "agent": "assistant"}


def matches(row: Row) -> bool:
    return isinstance(row.get("steps"), list) and (
        str(row.get("schema_version", "")).startswith("ATIF") or "session_id" in row
    )


def read(row: Row, where: str) -> list[Transcript]:
    omitted: Counter[str] = Counter()
    messages: list[Message] = []
    for index, step in enumerate(row["steps"]):
        if not isinstance(step, dict) or step.get("source") not in ROLES:
            expected = f"a step whose source is one of {', '.join(ROLES)}"
            raise not_one(step, f"{where}, step {index}", expected)
        messages += _messages(step, omitted)
    agent = row.get("agent") if isinstance(row.get("agent"), dict) else {}
    metadata = {**scalars(row), **{f"agent_{n}": v for n, v in scalars(agent or {}).items()}}
    tools = tools_of((agent or {}).get("tool_definitions"))
    name = own_id(row, "session_id", "trajectory_id")
    return [Transcript(name, tuple(messages), tools, metadata, notes_of(omitted))]


def _messages(step: Row, omitted: Counter[str]) -> Iterator[Message]:
    blocks = Blocks.of(step.get("message"))
    omitted.update(blocks.omitted)
    calls = [
        tool_call(each.get("function_name"), each.get("arguments"), each.get("tool_call_id"))
        for each in step.get("tool_calls") or ()
        if isinstance(each, dict)
    ]
    thinking = text_or_none(step.get("reasoning_content"))
    yield Message.of(ROLES[step["source"]], blocks.text or "", thinking=thinking, tool_calls=calls)
    observation = step.get("observation")
    results = observation.get("results") if isinstance(observation, dict) else ()
    for result in results or ():
        inner = Blocks.of(result.get("content"))
        omitted.update(inner.omitted)
        call_id = text_or_none(result.get("source_call_id"))
        # Without a call the agent acted in its own words, and reads what came of it as a user's.
        yield Message.of("tool" if call_id else "user", inner.text or "", tool_call_id=call_id)


FORMAT = RowFormat("atif", matches, read)
