"""WildChat: `conversation` of messages with notes about language, toxicity and redaction."""

from __future__ import annotations

from nlakit.transcript import Transcript

from . import openai
from .base import Row, RowFormat, own_id, scalars


def matches(row: Row) -> bool:
    turns = row.get("conversation")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict)


def read(row: Row, where: str) -> list[Transcript]:
    turns = [dict(each) for each in row["conversation"] if isinstance(each, dict)]
    (made,) = openai.read({"conversation": turns}, where)
    redacted = sum(bool(each.get("redacted")) for each in turns)
    metadata = {**scalars(row), "redacted_messages": redacted}
    notes = (f"{redacted} messages were redacted by the data set",) if redacted else ()
    name = own_id(row, "conversation_hash", "conversation_id", "id")
    return [Transcript(name, made.messages, (), metadata, notes)]


FORMAT = RowFormat("wildchat", matches, read)
