"""Which message, and which part of it, each character of a rendered conversation belongs to.

A message's block is a header, what it says, and a footer. What it says is found by marks
(`chat_marks`), so a template may move, trim or drop it. Where a footer ends is found by rendering
the conversation up to that message: what follows its last mark there is its footer.

Pure functions over texts and one callable; knows nothing of tokenizers.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from nlakit.transcript import THINKING_FIELDS

from .chat_marks import THINK_TAG, Marks, Rendered, common_prefix, common_suffix, plain

Section = Literal["header", "content", "footer", "scaffold", "thinking", "tool_call"]
Render = Callable[[list[dict[str, Any]], bool], str | None]
"""`render(messages, whole)`: the text of some messages; `whole`: with what the request asks for at
the end (a generation prompt, a message held open). None where the template refuses them."""

SAID: frozenset[Section] = frozenset({"content", "thinking", "tool_call"})
OPENED = re.compile(r"[<[{|(]+[\w|]*\Z")


@dataclass(frozen=True)
class Span:
    """Where in a conversation a token stands; all None in plain text."""

    role: str | None = None
    section: Section | None = None
    channel: str | None = None
    message_index: int | None = None


NO_SPAN = Span()
SCAFFOLD = Span(section="scaffold")
GENERATION_PROMPT = Span(role="assistant", section="header")


class Interval(NamedTuple):
    """Characters [start, end) of a rendered text that have one span."""

    start: int
    end: int
    span: Span


class Dropped(NamedTuple):
    """What a message says and the template did not write."""

    message_index: int
    what: str


class Layout(NamedTuple):
    """A rendered conversation, taken apart.

    Attributes:
        intervals: cover the text from end to end, in order.
        dropped: what of the messages is not in it.
    """

    intervals: tuple[Interval, ...]
    dropped: tuple[Dropped, ...]


def lay_out(
    messages: Sequence[Mapping[str, Any]], text: str, marks: Marks, render: Render, held_open: bool
) -> Layout:
    """Take apart the `text` of a conversation.

    Args:
        held_open: the last message is to be continued, so it has no footer.
    """
    return _Layouter(messages, text, marks, render, held_open).layout()


def token_spans(offsets: Sequence[tuple[int, int]], intervals: Sequence[Interval]) -> list[Span]:
    """The span of each token, whose characters of the text are given.

    A token that straddles two parts belongs to what a message says, else to the later part.
    """
    starts = [each.start for each in intervals]
    found = []
    for start, end in offsets:
        first = max(0, bisect_right(starts, start) - 1)
        last = max(first, bisect_right(starts, end - 1) - 1)
        touched = [each.span for each in intervals[first : last + 1]]
        said = [span for span in touched if span.section in SAID]
        found.append((said or touched or [SCAFFOLD])[-1])
    return found


class _Piece(NamedTuple):
    """A stretch of the text that a message says."""

    start: int
    end: int
    number: int


@dataclass
class _Layouter:
    messages: Sequence[Mapping[str, Any]]
    text: str
    marks: Marks
    render: Render
    held_open: bool
    tails: dict[tuple[Any, ...], str] = field(default_factory=dict)
    probes: dict[tuple[str, bool], tuple[str, str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.messages)
        # Numbers of the messages whose marks change nothing but themselves.
        self.trusted = self._settle(list(range(count)))
        self.found = self._locate()
        segments = self.marks.segments
        self.dropped = [number for number in range(len(segments)) if number not in self.found]
        self.kept = self._without_dropped()
        self.pieces = sorted(_Piece(*place, number) for number, place in self.found.items())
        self.starts = [piece.start for piece in self.pieces]
        self.own: list[list[_Piece]] = [[] for _ in range(count)]
        for piece in self.pieces:
            self.own[segments[piece.number].message].append(piece)

    def layout(self) -> Layout:
        return Layout(tuple(self._intervals()), tuple(self._told()))

    # -- what the messages say ---------------------------------------------------------------------
    def _settle(self, numbers: list[int]) -> set[int]:
        """As many messages as can be marked without changing anything else."""
        if not numbers or self._marked(numbers).text == self.text:
            return set(numbers)
        if len(numbers) == 1:
            return set()
        half = len(numbers) // 2
        good = self._settle(numbers[:half]) | self._settle(numbers[half:])
        return good if self._marked(good).text == self.text else set()

    def _marked(self, numbers: Sequence[int] | set[int], widened: bool = False) -> Rendered:
        rendered = self.render(self.marks.apply(self.messages, numbers, widened), True)
        return self.marks.read(rendered or "")

    def _locate(self) -> dict[int, tuple[int, int]]:
        """Characters of each segment, whitespace around it included where the template keeps it."""
        marked = self._marked(self.trusted)
        found = dict(marked.found)
        # Tails of other renderings start at the mark itself, before such whitespace.
        self.mark_ends = {number: end for number, (_, end) in found.items()}
        at_edges = [n for n in found if self.marks.segments[n].lead or self.marks.segments[n].trail]
        if at_edges:
            wide = self._marked(self.trusted, widened=True)
            for number in at_edges:
                if number in wide.found:
                    found[number] = self._with_edges(number, marked, wide)
        for number in range(len(self.marks.segments)):
            if self.marks.segments[number].message not in self.trusted:
                self._search(number, found)
        return found

    def _with_edges(self, number: int, marked: Rendered, wide: Rendered) -> tuple[int, int]:
        (start, end), (wide_start, wide_end) = marked.found[number], wide.found[number]
        before = _spaces_before(wide.text, wide_start) - _spaces_before(marked.text, start)
        after = _spaces_after(wide.text, wide_end) - _spaces_after(marked.text, end)
        segment = self.marks.segments[number]
        lead, trail = min(before, len(segment.lead)), min(after, len(segment.trail))
        return start - max(0, lead), end + max(0, trail)

    def _search(self, number: int, found: dict[int, tuple[int, int]]) -> None:
        """Look for the words of a segment between its neighbours."""
        low = max((found[n][1] for n in range(number) if n in found), default=0)
        later = range(number + 1, len(self.marks.segments))
        high = min((found[n][0] for n in later if n in found), default=len(self.text))
        own = self.marks.segments[number].text
        start = self.text.find(own, low, high)
        if start >= 0:
            found[number] = (start, start + len(own))

    def _without_dropped(self) -> list[Mapping[str, Any]]:
        """The messages as far as the template wrote them, where that changes nothing."""
        gone = {self.marks.segments[n].message for n in self.dropped}
        kept = [
            _stripped(message, index, self.marks, self.found) if index in gone else message
            for index, message in enumerate(self.messages)
        ]
        same = gone and self.render([plain(each) for each in kept], True) == self.text
        return kept if same else list(self.messages)

    def _told(self) -> list[Dropped]:
        segments = (self.marks.segments[number] for number in self.dropped)
        names = {"content": "content", "thinking": "thinking", "tool_call": "tool call {}"}
        told = {Dropped(each.message, names[each.kind].format(each.item)) for each in segments}
        return sorted(told)

    # -- where messages end ------------------------------------------------------------------------
    def _intervals(self) -> Iterator[Interval]:
        start, known = 0, True
        for index, end, end_known in self._ends():
            yield from self._block(index, start, end, known)
            start, known = end, end_known
        if start < len(self.text):
            yield Interval(start, len(self.text), GENERATION_PROMPT if known else SCAFFOLD)

    def _order(self) -> list[int]:
        """The messages as they stand in the text; one that says nothing, behind the one before."""
        place, places = 0, []
        for index, own in enumerate(self.own):
            place = own[0].start if own else place
            places.append((place, index))
        return [index for _, index in sorted(places)]

    def _ends(self) -> list[tuple[int, int, bool]]:
        """Per message where its block ends, and whether that is known."""
        ends: list[tuple[int, int, bool]] = []
        last = 0
        for index in self._order():
            said = max((piece.end for piece in self.own[index]), default=0)
            if self.held_open and index == len(self.messages) - 1:
                end: int | None = len(self.text)
            else:
                end = self._end(index, said)
            last = max(last, said, end or 0)
            ends.append((index, last, end is not None))
        return self._repaired(ends)

    def _end(self, index: int, said: int) -> int | None:
        key = self._key(index)
        known = self.tails.get(key) if self.own[index] else None
        if known is not None and self.text.startswith(known, said):
            return said + len(known)
        rendered = self.render(self.marks.apply(self.kept[: index + 1], self.trusted), False)
        if rendered is None:
            return None
        read = self.marks.read(rendered)
        present = [(place[1], n) for n, place in read.found.items() if n in self.mark_ends]
        anchor, number = max(present, default=(0, None))
        here = 0 if number is None else self.mark_ends[number]
        tail = read.text[anchor:]
        if here == said and self.own[index]:
            self.tails.setdefault(key, tail)
        return here + _clean_prefix(self.text[here : here + len(tail)], tail)

    def _repaired(self, ends: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
        """Where a template refuses a conversation cut there, other footers may tell."""
        known = sorted({tail for tail in self.tails.values() if tail}, key=len, reverse=True)
        made = []
        for index, end, is_known in ends:
            fits = (t for t in known if self.own[index] and self.text.startswith(t, end))
            tail = None if is_known else next(fits, None)
            made.append((index, end, is_known) if tail is None else (index, end + len(tail), True))
        return made

    def _key(self, index: int) -> tuple[Any, ...]:
        kinds = [self.marks.segments[piece.number].kind for piece in self.own[index]]
        return (self.messages[index]["role"], kinds[-1] if kinds else None)

    # -- the parts of a block ----------------------------------------------------------------------
    def _block(self, index: int, start: int, end: int, start_known: bool) -> Iterator[Interval]:
        inside = self.pieces[bisect_left(self.starts, start) : bisect_left(self.starts, end)]
        if not inside:
            yield from self._silent_block(index, start, end, start_known)
            return
        yield from self._before(index, start, inside[0], start_known)
        for piece, following in pairwise(inside):
            yield self._said(piece)
            yield from self._between(piece, following)
        yield self._said(inside[-1])
        yield from self._after(index, inside[-1], end)

    def _said(self, piece: _Piece) -> Interval:
        segment = self.marks.segments[piece.number]
        return Interval(piece.start, piece.end, self._span(segment.message, segment.kind))

    def _silent_block(
        self, index: int, start: int, end: int, start_known: bool
    ) -> Iterator[Interval]:
        """A message of which nothing is marked: empty, or whitespace, or nowhere to be found."""
        if start == end:
            return
        own = self.text[start:end]
        content = self.messages[index].get("content")
        probe = self._probe(index, start) if content else None
        header, footer = len(own), 0
        if probe is not None:
            header = common_prefix(own, probe[0])
            footer = common_suffix(own[header:], probe[1])
        first = self._span(index, "header") if start_known else SCAFFOLD
        yield from _cut(
            (start, start + header, first),
            (start + header, end - footer, self._span(index, "content")),
            (end - footer, end, self._span(index, "footer")),
        )

    def _before(
        self, index: int, start: int, piece: _Piece, start_known: bool
    ) -> Iterator[Interval]:
        """What stands before the first thing a block says."""
        segment = self.marks.segments[piece.number]
        says = piece.start
        if segment.kind == "thinking":
            says = _tag_start(self.text, start, piece.start)
        elif segment.kind == "tool_call":
            probe = self._probe(index, start)
            if probe is not None:
                says = start + _clean_prefix(self.text[start : piece.start], probe[0])
        elif segment.before and self.text.endswith(segment.before, start, piece.start):
            says = piece.start - len(segment.before)
        header = self._span(segment.message, "header") if start_known else SCAFFOLD
        yield from _cut(
            (start, says, header),
            (says, piece.start, self._span(segment.message, segment.kind)),
        )

    def _between(self, piece: _Piece, following: _Piece) -> Iterator[Interval]:
        first, second = (self.marks.segments[each.number] for each in (piece, following))
        start = (
            _tag_end(self.text, piece.end, following.start) if first.kind == "thinking" else None
        )
        start = piece.end if start is None else start
        end = following.start
        if second.kind == "thinking":
            end = _tag_start(self.text, start, end)
        same = first.message == second.message
        middle: Section = second.kind if same and first.kind == second.kind else "header"
        if same and second.kind == "tool_call":
            middle = "tool_call"
        yield from _cut(
            (piece.end, start, self._span(first.message, first.kind)),
            (start, end, self._span(second.message, middle)),
            (end, following.start, self._span(second.message, second.kind)),
        )

    def _after(self, index: int, piece: _Piece, end: int) -> Iterator[Interval]:
        """What stands behind the last thing a block says."""
        segment = self.marks.segments[piece.number]
        says = piece.end
        if segment.kind == "thinking":
            says = _tag_end(self.text, piece.end, end) or piece.end
        elif segment.kind == "tool_call":
            probe = self._probe(index, piece.end)
            if probe is not None:
                says = end - common_suffix(self.text[piece.end : end], probe[1])
        elif segment.after and self.text.startswith(segment.after, piece.end, end):
            says = piece.end + len(segment.after)
        yield from _cut(
            (piece.end, says, self._span(segment.message, segment.kind)),
            (says, end, self._span(segment.message, "footer")),
        )

    def _probe(self, index: int, start: int) -> tuple[str, str] | None:
        """Header and footer of a message of this role that says one letter, from `start` on."""
        key = (self.messages[index]["role"], index == 0)
        if key not in self.probes:
            self.probes[key] = self._probed(index, start)
        return self.probes[key]

    def _probed(self, index: int, start: int) -> tuple[str, str] | None:
        before = self.marks.apply(self.kept[:index], self.trusted)
        rendered = self.render([*before, self.marks.probe(plain(self.kept[index]))], False)
        read = self.marks.read(rendered or "")
        place = read.found.get(len(self.marks.segments))
        if place is None:
            return None
        earlier = [
            (where[1], n)
            for n, where in read.found.items()
            if n in self.mark_ends and where[1] <= place[0]
        ]
        anchor, number = max(earlier, default=(0, None))
        skipped = max(0, start - (0 if number is None else self.mark_ends[number]))
        return read.text[anchor + skipped : place[0]], read.text[place[1] :]

    def _span(self, index: int, section: Section) -> Span:
        channel = self.messages[index].get("channel")
        shown = channel if isinstance(channel, str) else None
        return Span(self.messages[index]["role"], section, shown, index)


def _cut(*parts: tuple[int, int, Span]) -> Iterator[Interval]:
    return (Interval(*part) for part in parts if part[0] < part[1])


def _stripped(
    message: Mapping[str, Any], index: int, marks: Marks, found: Mapping[int, Any]
) -> dict[str, Any]:
    """A message without the texts of which nothing was written, and from the first written one on
    where something was."""
    made = plain(message)
    for slot in (each for each in marks.slots if each.message == index):
        numbers = [piece for piece in slot.pieces if isinstance(piece, int)]
        if all(number in found for number in numbers):
            continue
        name = slot.path[0]
        present = [place for place, piece in enumerate(slot.pieces) if piece in found]
        if slot.path == ("content",):
            kept = slot.pieces[present[0] : present[-1] + 1] if present else ()
            texts = (p if isinstance(p, str) else marks.segments[p].text for p in kept)
            made["content"] = "".join(texts)
        elif not present and name in THINKING_FIELDS:
            made.pop(name, None)
    return made


def _clean_prefix(first: str, second: str) -> int:
    """Their common prefix; where both go on, a tag that both happen to open is not in it."""
    size = common_prefix(first, second)
    opened = OPENED.search(first, 0, size) if size < min(len(first), len(second)) else None
    return opened.start() if opened else size


def _tag_start(text: str, start: int, end: int) -> int:
    """Where a tag that opens a block of thoughts starts, right before `end`; else `end`."""
    tags = [tag for tag in THINK_TAG.finditer(text, start, end) if not (tag["end"] or tag["end2"])]
    if tags and not text[tags[-1].end() : end].strip():
        return tags[-1].start()
    return end


def _tag_end(text: str, start: int, end: int) -> int | None:
    """Where a tag that closes a block of thoughts ends, right behind `start`; None for none."""
    tag = THINK_TAG.search(text, start, end)
    if tag is None or not (tag["end"] or tag["end2"]) or text[start : tag.start()].strip():
        return None
    return tag.end()


def _spaces_before(text: str, place: int) -> int:
    start = place
    while start and text[start - 1].isspace():
        start -= 1
    return place - start


def _spaces_after(text: str, place: int) -> int:
    end = place
    while end < len(text) and text[end].isspace():
        end += 1
    return end - place
