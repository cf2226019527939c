"""What a reader of a format is, and what readers share.

A row reader takes one object (a line of JSON, a row of Parquet); a file reader takes a whole file.
Both give transcripts; an empty `id` is filled in by whoever reads a corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nlakit.errors import InputError
from nlakit.transcript import Message, ToolCall, Transcript

Row = Mapping[str, Any]
SCALARS = (str, int, float, bool)


class RowFormat(NamedTuple):
    """A format of single objects.

    Attributes:
        matches: whether an object looks like one of this format.
        read: its transcripts. Arguments: the object, and where it stands. Raises `InputError`.
    """

    name: str
    matches: Callable[[Row], bool]
    read: Callable[[Row, str], list[Transcript]]


class FileFormat(NamedTuple):
    """A format of whole files. `read` gives transcripts and where each stands."""

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Iterator[tuple[Transcript, str]]]


@dataclass
class Blocks:
    """A content in blocks, taken apart.

    Attributes:
        results: (id of the call, text) of each result of a tool.
        omitted: kinds of blocks that are no text, with their number.
    """

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[tuple[str | None, str]] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, content: object) -> Blocks:
        """Take apart a content: None, text, or a list of texts and typed objects."""
        made = cls()
        for block in content if isinstance(content, list | tuple) else [content]:
            made._add(block)
        return made

    @property
    def text(self) -> str | None:
        """The texts, one after the other; None where there is none."""
        return "\n".join(self.texts) if self.texts else None

    @property
    def thinking(self) -> str | None:
        return "\n".join(self.thoughts) if self.thoughts else None

    def _add(self, block: object) -> None:
        if isinstance(block, str):
            self.texts.append(block)
        elif isinstance(block, dict) and isinstance(block.get("type"), str):
            self._typed(block["type"], block)
        elif isinstance(block, dict) and isinstance(block.get("text"), str):
            self.texts.append(block["text"])
        elif block is not None:
            self.omitted["block of no type"] += 1

    def _typed(self, kind: str, block: Row) -> None:
        if kind in ("text", "input_text", "output_text"):
            self.texts.append(str(block.get("text") or ""))
        elif kind in ("thinking", "reasoning"):
            thought = block.get(kind) or block.get("summary")
            if isinstance(thought, str) and not block.get("redacted"):
                self.thoughts.append(thought)
            else:
                self.omitted["hidden thinking"] += 1
        elif kind.endswith("tool_use"):
            arguments = block.get("input", block.get("arguments"))
            self.calls.append(tool_call(block.get("name"), arguments, block.get("id")))
            if text_or_none(block.get("result")):  # Inspect's, of a tool that the provider ran
                self.results.append((text_or_none(block.get("id")), block["result"]))
        elif kind.endswith("tool_result"):
            inner = Blocks.of(block.get("content"))
            self.omitted.update(inner.omitted)
            self.results.append((text_or_none(block.get("tool_use_id")), inner.text or ""))
        else:
            self.omitted["hidden thinking" if kind == "redacted_thinking" else kind] += 1


def tool_call(name: object, arguments: object, call_id: object = None) -> ToolCall:
    """A call from whatever a format wrote."""
    given = arguments if isinstance(arguments, dict | str) else {}
    return ToolCall(str(name or "unnamed"), given, text_or_none(call_id))


def text_or_none(value: object) -> str | None:
    """The value if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def own_id(row: Row, *names: str) -> str:
    """The first of these fields that names the row; empty where none does."""
    return next((str(row[n]) for n in names if isinstance(row.get(n), str | int)), "")


def scalars(row: Row, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of an object, as what is known of a transcript."""
    kept = {n: v for n, v in row.items() if isinstance(v, SCALARS) and n not in leave_out}
    return {name: value for name, value in kept.items() if not _is_long(value)}


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) > 500


def notes_of(omitted: Counter[str]) -> tuple[str, ...]:
    """What was left out, in words."""
    return tuple(f"{number} x {what} left out" for what, number in sorted(omitted.items()))


def tools_of(value: object) -> tuple[dict[str, Any], ...]:
    """Schemas of tools as chat templates take them; anything else is none."""
    listed = value if isinstance(value, list | tuple) else ()
    return tuple(_as_function(dict(each)) for each in listed if isinstance(each, Mapping))


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """A schema that is Anthropic's, or stands without `function` around it."""
    named = next((name for name in ("parameters", "input_schema") if name in tool), None)
    if named is None or "name" not in tool or "function" in tool:
        return tool
    kept = {name: tool[name] for name in ("name", "description") if name in tool}
    return {"type": "function", "function": {**kept, "parameters": tool[named]}}


def not_one(row: object, where: str, expected: str) -> InputError:
    """The error for an object that is not what its format says."""
    return InputError(f"{where}: found {str(row)[:80]!r}, expected {expected}.")


def with_system(system: object, messages: list[Message]) -> list[Message]:
    """The messages behind a system line, where there is one that they do not begin with."""
    line = Blocks.of(system).text
    first = messages[0] if messages else None
    if first is not None and first.role == "system" and first.text == line:
        return messages
    return [Message.of("system", line), *messages] if line else messages
