"""SWE-agent's `.traj` files: the history of messages, or steps with what the model was shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from nlakit.transcript import Message, Transcript

from .agent_messages import read_messages
from .base import Row, RowFormat, not_one, notes_of, own_id, scalars


def matches(row: Row) -> bool:
    steps = row.get("trajectory")
    return isinstance(steps, list) and ("history" in row or "info" in row or _is_step(steps))


def _is_step(steps: list[Any]) -> bool:
    return bool(steps) and isinstance(steps[0], dict) and "observation" in steps[0]


def read(row: Row, where: str) -> list[Transcript]:
    omitted: Counter[str] = Counter()
    history = row.get("history")
    listed = history if isinstance(history, list) and history else list(_shown(row, where))
    agents = [each.get("agent") for each in listed if isinstance(each, dict)]
    main = agents[0] if agents else None
    own = [each for each in listed if not isinstance(each, dict) or each.get("agent") == main]
    if len(own) < len(listed):
        omitted["message of another agent"] += len(listed) - len(own)
    messages: list[Message] = list(read_messages(own, omitted, where))
    info = row.get("info") if isinstance(row.get("info"), dict) else {}
    metadata = {**scalars(row), **scalars(info or {})}
    return [
        Transcript(own_id(row, "instance_id"), tuple(messages), (), metadata, notes_of(omitted))
    ]


def _shown(row: Row, where: str) -> Iterator[Any]:
    """What the model was shown last, and what it wrote then."""
    if not row["trajectory"]:
        raise not_one(row, where, "a history or a step")
    last = row["trajectory"][-1]
    # `query` was `messages` before version 1.1.
    shown = last.get("query") or last.get("messages") or ()
    yield from shown
    yield {
        **({"agent": shown[0].get("agent")} if shown else {}),
        "role": "assistant",
        "content": last.get("response") or last.get("thought") or "",
    }
    if isinstance(last.get("observation"), str) and last["observation"]:
        agent = {"agent": shown[0].get("agent")} if shown else {}
        yield {**agent, "role": "user", "content": last["observation"]}


FORMAT = RowFormat("swe-agent", matches, read)
