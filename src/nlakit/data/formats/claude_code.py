"""Claude Code's sessions: a file of records, where one turn of the assistant spans several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlakit.transcript import Message, Transcript

from .anthropic import messages_of
from .base import Blocks, FileFormat, Row, notes_of

LOOK_AT = 20
"""Records at a file's head of which one must be a session's."""
SESSION_FIELDS = frozenset({"sessionId", "parentUuid", "isSidechain"})
ABOUT = ("sessionId", "version", "gitBranch", "cwd")


def matches(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        heads = [line for _, line in zip(range(LOOK_AT), file, strict=False)]
    return any(_is_session_record(line) for line in heads)


def _is_session_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "type" in record and bool(record.keys() & SESSION_FIELDS)


def read(path: Path) -> Iterator[tuple[Transcript, str]]:
    records, broken = _records(path)
    session = _Session()
    turns = [each for each in records if isinstance(each.get("message"), dict)]
    only_aside = bool(turns) and all(each.get("isSidechain") for each in turns)
    given_up = _given_up(records)
    for record in records:
        if record.get("uuid") in given_up:
            session.omitted["record of a branch that was given up"] += 1
        elif record.get("isSidechain") and not only_aside:
            session.omitted["record of a side chain"] += 1
        else:
            session.take(record)
    if broken:
        session.omitted["record that is no JSON"] += broken
    messages = tuple(session.messages())
    if messages:
        made = Transcript(path.stem, messages, (), session.about, notes_of(session.omitted))
        yield made, str(path)


def _records(path: Path) -> tuple[list[Row], int]:
    found: list[Row] = []
    broken = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                broken += 1  # a session that was killed ends within a record
                continue
            if isinstance(record, dict):
                found.append(record)
    return found, broken


def _given_up(records: list[Row]) -> set[str]:
    """Records behind a question that was asked anew: the later one has the same parent."""
    last: dict[Any, Any] = {}
    left: set[str] = set()
    for record in filter(_is_question, records):
        parent = record.get("parentUuid")
        if parent is not None and last.get(parent, record["uuid"]) != record["uuid"]:
            left.add(last[parent])
        last[parent] = record["uuid"]
    for record in records:  # in the order they were written in, so parents come first
        if record.get("parentUuid") in left and isinstance(record.get("uuid"), str):
            left.add(record["uuid"])
    return left


def _is_question(record: Row) -> bool:
    """Whether a record is what a person wrote, and no result of a tool."""
    message, identity = record.get("message"), record.get("uuid")
    aside = record.get("isSidechain") or record.get("isMeta")
    if record.get("type") != "user" or aside or not isinstance(message, dict):
        return False
    return isinstance(identity, str) and not Blocks.of(message.get("content")).results


@dataclass
class _Session:
    """Turns in order; the parts of one answer of the model are one turn."""

    turns: list[tuple[str, Blocks]] = field(default_factory=list)
    by_answer: dict[str, Blocks] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    omitted: Counter[str] = field(default_factory=Counter)
    about: dict[str, Any] = field(default_factory=dict)

    def take(self, record: Row) -> None:
        identity = record.get("uuid")
        if isinstance(identity, str) and identity in self.seen:
            return  # a resumed session repeats what came before
        if isinstance(identity, str):
            self.seen.add(identity)
        kind, message = record.get("type"), record.get("message")
        if kind not in ("user", "assistant") or not isinstance(message, dict):
            self.omitted[f"{kind} record"] += 1
            return
        self.about |= {name: record[name] for name in ABOUT if isinstance(record.get(name), str)}
        if isinstance(message.get("model"), str):
            self.about["model"] = message["model"]
        self._add(kind, message)

    def _add(self, kind: str, message: Row) -> None:
        blocks = Blocks.of(message.get("content"))
        answer = message.get("id") if kind == "assistant" else None
        earlier = self.by_answer.get(answer) if isinstance(answer, str) else None
        if earlier is None and kind == "assistant" and self.turns and self.turns[-1][0] == kind:
            earlier = self.turns[-1][1]
        if earlier is not None:
            for name in ("texts", "thoughts", "calls", "results"):
                getattr(earlier, name).extend(getattr(blocks, name))
            earlier.omitted.update(blocks.omitted)
        else:
            self.turns.append((kind, blocks))
        if isinstance(answer, str):
            self.by_answer.setdefault(answer, earlier or blocks)

    def messages(self) -> Iterator[Message]:
        for role, blocks in self.turns:
            yield from messages_of(role, blocks, self.omitted)


FORMAT = FileFormat("claude-code", matches, read)
