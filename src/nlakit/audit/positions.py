"""Which tokens of a transcript are read.

Functions of the transcript, the selection and its seed alone, so that a scan that was killed
chooses the same again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from pydantic import Field

from nlakit.config import FrozenModel
from nlakit.errors import InputError
from nlakit.models.chat_spans import SAID, Span
from nlakit.models.encoded import Encoded

SENTENCE_END = re.compile(r"[.!?\n]\s*$")


class Selection(FrozenModel):
    """What is asked for; positions that several of them choose are read once."""

    every: int | None = Field(default=None, ge=1)
    """Each K-th token of what is said."""
    last_of_turns: bool = False
    """The last token of what each message says; of a text its last token."""
    random: int | None = Field(default=None, ge=1)
    """N tokens of each transcript."""
    seed: int = 0
    tool_calls: bool = False
    """The token before each call, and the first and last of it."""
    thinking: bool = False
    """Ends of sentences in thinking sections."""
    around: str | None = None
    """A regular expression: tokens of its matches, and `radius` tokens on either side."""
    radius: int = Field(default=2, ge=0)
    roles: tuple[str, ...] = ()
    """Only messages of these roles; empty: all."""

    def or_default(self) -> Selection:
        """The last token of each turn, where nothing was asked for."""
        asked = (self.every, self.random, self.around)
        flags = (self.last_of_turns, self.tool_calls, self.thinking)
        nothing = all(each is None for each in asked) and not any(flags)
        return self.model_copy(update={"last_of_turns": True}) if nothing else self


class Sheet(NamedTuple):
    """A transcript as the target reads it: tokens, and whose each is."""

    encoded: Encoded
    spans: Sequence[Span]


def choose(sheet: Sheet, selection: Selection, name: str) -> list[int]:
    """Positions to read, in order.

    Args:
        name: of the transcript, which decides what is random.

    Raises:
        InputError: `around` is no regular expression.
    """
    wanted = selection.or_default()
    usable = [p for p in _readable(sheet) if _of_roles(sheet.spans[p], wanted.roles)]
    chosen: set[int] = set(usable[:: wanted.every] if wanted.every else ())
    if wanted.last_of_turns:
        chosen.update(_last_of_turns(sheet, usable))
    if wanted.random:
        rng = random.Random(f"{wanted.seed}/{name}/positions")
        chosen.update(rng.sample(usable, min(wanted.random, len(usable))))
    if wanted.tool_calls:
        chosen.update(_around_calls(sheet))
    if wanted.thinking:
        chosen.update(_sentence_ends(sheet, "thinking"))
    if wanted.around is not None:
        chosen.update(_around(sheet, wanted.around, wanted.radius))
    return sorted(p for p in chosen if _of_roles(sheet.spans[p], wanted.roles))


def _readable(sheet: Sheet) -> list[int]:
    """Tokens of what somebody says; of a text all that stand for characters."""
    return [
        position
        for position, ((start, end), span) in enumerate(
            zip(sheet.encoded.offsets, sheet.spans, strict=True)
        )
        if end > start and (span.section is None or span.section in SAID)
    ]


def _of_roles(span: Span, roles: Sequence[str]) -> bool:
    return not roles or span.role in roles


def _last_of_turns(sheet: Sheet, usable: Sequence[int]) -> Iterator[int]:
    for _, run in groupby(usable, key=lambda p: sheet.spans[p].message_index):
        yield list(run)[-1]


def _runs(sheet: Sheet, section: str) -> Iterator[list[int]]:
    """Runs of tokens of one section in one message."""

    def key(position: int) -> tuple[object, object]:
        span = sheet.spans[position]
        return span.section, span.message_index

    for (found, _), run in groupby(range(len(sheet.spans)), key=key):
        if found == section:
            yield list(run)


def _around_calls(sheet: Sheet) -> Iterator[int]:
    for run in _runs(sheet, "tool_call"):
        yield from {max(0, run[0] - 1), run[0], run[-1]}


def _sentence_ends(sheet: Sheet, section: str) -> Iterator[int]:
    for run in _runs(sheet, section):
        ends = [p for p in run if SENTENCE_END.search(sheet.encoded.tokens[p])]
        yield from {*ends, run[-1]}


def _around(sheet: Sheet, pattern: str, radius: int) -> Iterator[int]:
    try:
        matches = list(re.finditer(pattern, sheet.encoded.text))
    except re.error as error:
        raise InputError(f"--around {pattern!r} is no regular expression: {error}.") from error
    for match in matches:
        touched = [
            position
            for position, (start, end) in enumerate(sheet.encoded.offsets)
            if start < match.end() and end > match.start()
        ]
        if touched:
            low, high = max(0, touched[0] - radius), touched[-1] + radius
            yield from range(low, min(high, len(sheet.spans) - 1) + 1)
