"""Docent's agent runs: several transcripts each, with metadata of the run and of each."""

from __future__ import annotations

from collections import Counter

from nlakit.transcript import Transcript

from .agent_messages import read_messages
from .base import Row, RowFormat, not_one, notes_of, own_id, scalars


def matches(row: Row) -> bool:
    return isinstance(row.get("transcripts"), list | dict)


def read(row: Row, where: str) -> list[Transcript]:
    found = row["transcripts"]
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    return [_transcript(row, str(name), each, where) for name, each in pairs]


def _transcript(run: Row, name: str, raw: object, where: str) -> Transcript:
    if not isinstance(raw, dict) or not isinstance(raw.get("messages"), list):
        raise not_one(raw, f"{where}, transcript {name}", "an object with messages")
    omitted: Counter[str] = Counter()
    messages = tuple(read_messages(raw["messages"], omitted, f"{where}, transcript {name}"))
    about = [each for each in (run.get("metadata"), raw.get("metadata")) if isinstance(each, dict)]
    metadata = {key: value for each in about for key, value in scalars(each).items()}
    prefix = own_id(run, "id")
    identity = own_id(raw, "id") or (f"{prefix}/{name}" if prefix else "")
    return Transcript(identity, messages, (), metadata, notes_of(omitted))


FORMAT = RowFormat("docent", matches, read)
