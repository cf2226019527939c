"""Marks around everything that a conversation says, to find it again in the rendered text.

A chat template moves, trims, drops and rewrites what messages hold, so a message cannot be found by
rendering the ones before it. Instead each stretch of a message gets a start and an end character
that nobody wrote. Whitespace at a stretch's edges stays outside its marks, so that templates trim
it as ever; so do the strings that templates look for (`</think>`), so that they find them.

Pure functions over message mappings; knows nothing of tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from nlakit.errors import InputError
from nlakit.transcript import TEXT_PARTS, THINKING_FIELDS, THINKING_PARTS, str_of

Kind = Literal["content", "thinking", "tool_call"]
Path = tuple[str | int, ...]

THINK_TAG = re.compile(
    r"<(?P<end>/?)(?:\w+:)?(?:think|thinking|thought)>|\[(?P<end2>/?)THINK\]", re.IGNORECASE
)
LITERAL = re.compile(r"'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\"")
EXPRESSION = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
NEVER_THINK = frozenset({"user", "system", "developer", "tool", "function"})
"""Roles whose contents may quote a block of thoughts, and have none."""
PRIVATE_PLANES = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Segment(NamedTuple):
    """A stretch of one message, without whitespace at its edges.

    Attributes:
        item: which part of the content, or which call, of the message.
        lead, trail: the whitespace around it in the message.
        before, after: what stands in the same text before `lead` and behind `trail`, up to the
            next segment.
    """

    message: int
    kind: Kind
    item: int
    text: str
    lead: str = ""
    trail: str = ""
    before: str = ""
    after: str = ""


class Slot(NamedTuple):
    """A text within a message: where it stands, and its pieces (numbers are segments)."""

    message: int
    path: Path
    pieces: tuple[str | int, ...]


@dataclass(frozen=True)
class Marks:
    """All segments of a conversation, and a pair of characters for each."""

    segments: tuple[Segment, ...]
    slots: tuple[Slot, ...]
    characters: tuple[str, ...]

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]], template: str) -> Marks:
        """The marks of a conversation that this template is to render."""
        finder = _Finder(looked_for(template))
        for index, message in enumerate(messages):
            finder.read(index, message)
        # One pair more, for a message that stands in for another (`probe`).
        count = 2 * (len(finder.segments) + 1)
        return cls(tuple(finder.segments), tuple(finder.slots), _unused(messages, count))

    def apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        marked: Iterable[int] | None = None,
        widened: bool = False,
    ) -> list[dict[str, Any]]:
        """The messages with marks.

        Args:
            messages: as many of the first messages as are wanted.
            marked: numbers of messages to be marked; None: all.
            widened: double the whitespace around each segment.
        """
        made = [plain(each) for each in messages]
        chosen = set(range(len(made)) if marked is None else marked)
        for slot in self.slots:
            if slot.message in chosen and slot.message < len(made):
                text = "".join(self._piece(piece, widened) for piece in slot.pieces)
                _put(made[slot.message], slot.path, text)
        return made

    def probe(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message of the same role that says one letter and nothing else."""
        left_out = {"content", "tool_calls", *THINKING_FIELDS}
        kept = {name: value for name, value in message.items() if name not in left_out}
        return {**kept, "content": self._around(len(self.segments), "x")}

    def read(self, rendered: str) -> Rendered:
        """A rendered text without its marks, and where the segments stand in it."""
        numbers = {character: number for number, character in enumerate(self.characters)}
        pieces, starts, ends = [], {}, {}
        position = done = 0
        for place, character in enumerate(rendered):
            number = numbers.get(character)
            if number is None:
                continue
            pieces.append(rendered[done:place])
            position, done = position + place - done, place + 1
            (ends if number % 2 else starts).setdefault(number // 2, position)
        text = "".join([*pieces, rendered[done:]])
        return Rendered(text, dict(self._found(text, starts, ends)))

    def _found(
        self, text: str, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> Iterator[tuple[int, tuple[int, int]]]:
        for number in sorted(starts.keys() | ends.keys()):
            start, end = starts.get(number), ends.get(number)
            own = self.segments[number].text if number < len(self.segments) else "x"
            if start is None:  # the template cut off its beginning
                assert end is not None
                start = end - common_suffix(text[:end], own)
            elif end is None:
                end = start + common_prefix(text[start:], own)
            if start <= end:
                yield number, (start, end)

    def _piece(self, piece: str | int, widened: bool) -> str:
        if isinstance(piece, str):
            return piece
        segment = self.segments[piece]
        times = 2 if widened else 1
        marked = self._around(piece, segment.text)
        return segment.lead * times + marked + segment.trail * times

    def _around(self, number: int, text: str) -> str:
        return self.characters[2 * number] + text + self.characters[2 * number + 1]


class Rendered(NamedTuple):
    """A rendered text, and [start, end) of each segment that is in it."""

    text: str
    found: dict[int, tuple[int, int]]


class _Finder:
    """Collects the texts of messages, split at what the template looks for."""

    def __init__(self, literals: Sequence[str]) -> None:
        self.segments: list[Segment] = []
        self.slots: list[Slot] = []
        listed = "|".join(re.escape(each) for each in literals)
        tags = re.sub(r"\?P<\w+>", "?:", THINK_TAG.pattern)
        self._thinks = False
        self._split = re.compile(f"(?i:({tags}{'|' if listed else ''}{listed}))")

    def read(self, index: int, message: Mapping[str, Any]) -> None:
        """Take in one message."""
        self._thinks = message.get("role") not in NEVER_THINK
        self._thinking_fields(index, message)
        content = message.get("content")
        if isinstance(content, str):
            self._add(index, ("content",), content, "content", 0)
        for number, part in enumerate(content if isinstance(content, list | tuple) else ()):
            self._part(index, number, part)
        for number, call in enumerate(message.get("tool_calls") or ()):
            path: Path = ("tool_calls", number)
            inner = call
            if "function" in call:
                path, inner = (*path, "function"), call["function"]
            self._leaves(index, (*path, "name"), inner["name"], number)
            self._leaves(index, (*path, "arguments"), inner.get("arguments"), number)

    def _thinking_fields(self, index: int, message: Mapping[str, Any]) -> None:
        seen: dict[str, tuple[str | int, ...]] = {}
        for name in THINKING_FIELDS:
            text = message.get(name)
            if not isinstance(text, str):
                continue
            # The same thoughts under two names are one, whichever the template writes.
            if text in seen:
                self.slots.append(Slot(index, (name,), seen[text]))
            else:
                self._add(index, (name,), text, "thinking", 0)
                seen[text] = self.slots[-1].pieces

    def _part(self, index: int, number: int, part: Any) -> None:
        if isinstance(part, str):
            self._add(index, ("content", number), part, "content", number)
            return
        kind = part.get("type", "text")
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            self._add(index, ("content", number, "text"), part["text"], "content", number)
        if kind in THINKING_PARTS and isinstance(part.get(kind), str):
            self._add(index, ("content", number, kind), part[kind], "thinking", number)

    def _leaves(self, index: int, path: Path, value: Any, number: int) -> None:
        """The texts within the arguments of a call."""
        if isinstance(value, str):
            self._add(index, path, value, "tool_call", number)
        elif isinstance(value, Mapping):
            for name, each in value.items():
                self._leaves(index, (*path, name), each, number)
        elif isinstance(value, list | tuple):
            for place, each in enumerate(value):
                self._leaves(index, (*path, place), each, number)

    def _add(self, index: int, path: Path, text: str, kind: Kind, item: int) -> None:
        parts = self._split.split(text) if kind == "content" else [text]
        thinks = self._thinks and kind == "content"
        kinds = _kinds(parts, kind) if thinks else [kind, *[None, kind] * (len(parts) // 2)]
        pieces: list[str | int] = []
        for part, own in zip(parts, kinds, strict=True):
            core = part.strip()
            if own is None or not core:
                pieces.append(part)
                continue
            start = part.index(core)
            lead, trail = part[:start], part[start + len(core) :]
            pieces.append(len(self.segments))
            self.segments.append(Segment(index, own, item, core, lead, trail))
        self._remember_surroundings(pieces)
        self.slots.append(Slot(index, path, tuple(pieces)))

    def _remember_surroundings(self, pieces: Sequence[str | int]) -> None:
        held = ""
        last: int | None = None
        for piece in pieces:
            if isinstance(piece, str):
                held += piece
                continue
            self.segments[piece] = self.segments[piece]._replace(before=held)
            if last is not None:
                self.segments[last] = self.segments[last]._replace(after=held)
            held, last = "", piece
        if last is not None:
            self.segments[last] = self.segments[last]._replace(after=held)


def _kinds(parts: Sequence[str], kind: Kind) -> list[Kind | None]:
    """The kind of each part of a split text; None for what it was split at."""
    kinds: list[Kind | None] = []
    now = kind
    tags = [THINK_TAG.fullmatch(part) for part in parts[1::2]]
    first = next((tag for tag in tags if tag), None)
    if first is not None and closes(first):  # the opening tag was in the prompt
        now = "thinking"
    for part in parts:
        split_at = len(kinds) % 2 == 1
        tag = THINK_TAG.fullmatch(part) if split_at else None
        if tag is not None:
            now = kind if closes(tag) else "thinking"
        kinds.append(None if split_at else now)
    return kinds


def closes(tag: re.Match[str]) -> bool:
    """Whether a `THINK_TAG` ends a block of thoughts."""
    return bool(tag["end"] or tag["end2"])


def looked_for(template: str) -> list[str]:
    """Strings in a template's expressions that it may look for in a content, long ones first.

    Words (`user`) and whitespace are left out: a mark beside them hides nothing.
    """
    inside = chain.from_iterable(LITERAL.findall(each) for each in EXPRESSION.findall(template))
    found = {single or double for single, double in inside}
    bare = {each.replace("\\n", "\n").strip() for each in found}
    telling = {each for each in bare if len(each) > 2 and re.search(r"[<>|\[\]{}]", each)}
    return sorted(telling, key=lambda each: (-len(each), each))


def _unused(messages: Sequence[Mapping[str, Any]], count: int) -> tuple[str, ...]:
    """Private-use characters that no message holds."""
    written = set(str_of(messages))
    free = (chr(code) for plane in PRIVATE_PLANES for code in plane if chr(code) not in written)
    found = tuple(islice(free, count))
    if len(found) < count:
        raise InputError(f"The conversation has {count // 2} stretches of text. Give a part of it.")
    return found


def plain(value: Any) -> Any:
    """A copy of a value in dicts and lists."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _put(message: dict[str, Any], path: Path, text: str) -> None:
    inner: Any = message
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = text


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences share from the start."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def common_suffix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences share at the end."""
    return common_prefix(first[::-1], second[::-1])
