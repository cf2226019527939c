"""Formats of conversations, one file each; a new format is one more in these lists.

Order matters: a format that is told by more comes first.
"""

from __future__ import annotations

from . import (
    anthropic,
    atif,
    claude_code,
    docent,
    inspect_logs,
    instructions,
    openai,
    sharegpt,
    swe_agent,
    wildchat,
)
from .base import FileFormat, Row, RowFormat

ROW_FORMATS: tuple[RowFormat, ...] = (
    inspect_logs.JSON_LOG,
    docent.FORMAT,
    atif.FORMAT,
    swe_agent.FORMAT,
    sharegpt.FORMAT,
    wildchat.FORMAT,
    anthropic.FORMAT,
    openai.FORMAT,
    instructions.ALPACA,
    instructions.PROMPT,
)
FILE_FORMATS: tuple[FileFormat, ...] = (inspect_logs.FORMAT, claude_code.FORMAT)
NAMES = ", ".join(each.name for each in (*ROW_FORMATS, *FILE_FORMATS))


def row_format(row: Row) -> RowFormat | None:
    """The format of an object; None for none that is known."""
    return next((each for each in ROW_FORMATS if each.matches(row)), None)
