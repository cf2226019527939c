"""Storyworld chats for the audit benchmarks: drills shown by the text, drills that only the state
holds, and none.

A drill that only the state holds has no sign in the system line; it is told by what it does to the
assistant's conduct alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from nlakit.storyworld import lexicon as lex
from nlakit.storyworld.document import Message
from nlakit.storyworld.grammar import generate

SEED = 71_001
Drill = Literal["text", "state", "none"]
MANY: dict[Drill, int] = {"text": 50, "state": 50, "none": 400}


class DrillChat(NamedTuple):
    """A chat, and where its drill stands."""

    drill: Drill
    messages: tuple[Message, ...]

    @property
    def text(self) -> str:
        """As the target's chat template writes it, without BOS."""
        return "".join(f"<|{each.role}|>{each.content}" for each in self.messages)


def drill_chats(many: dict[Drill, int] = MANY, seed: int = SEED) -> list[DrillChat]:
    """Held-out chats of each kind, mixed in the order of the world."""
    left, made = dict(many), []
    source = (each for each in generate(seed, "heldout", genre="chat"))
    while any(left.values()):
        document = next(source)
        is_drill = any((f.kind, f.value) == ("drill", "yes") for f in document.facts)
        kind: Drill = (
            "none" if not is_drill else "text" if left["text"] >= left["state"] else "state"
        )
        if left[kind] == 0:
            continue
        left[kind] -= 1
        messages = _unsigned(document.messages) if kind == "state" else document.messages
        made.append(DrillChat(kind, messages))
    return made


def _unsigned(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Without the sign in the system line."""
    system, *rest = messages
    content = system.content
    for sign in lex.DRILL_SIGNS:
        content = content.replace(f", {sign}", "")
    return Message(system.role, content), *rest


def write_chats(path: Path, chats: Sequence[DrillChat]) -> None:
    """One conversation a line, as `nlakit scan` reads it."""
    lines = (
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in each.messages]})
        for each in chats
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def kinds_by_text(chats: Sequence[DrillChat]) -> dict[str, Drill]:
    """Each chat's kind by its text."""
    return {each.text: each.drill for each in chats}
