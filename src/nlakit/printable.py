"""Text of strangers on a terminal: shown, never obeyed."""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import Any

KEPT = "\n\t"
ESCAPES = "nlakit.escapes"
"""The error handler that `write_escapes` sets."""


def printable(text: str) -> str:
    """The text with � for control characters, which a terminal would take for orders.

    Names, descriptions and explanations come out of checkpoints; an ESC in one could move the
    cursor, change the title, or write over what stands there.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_shown(each) else "\ufffd" for each in text)


def is_one_line(text: str) -> bool:
    """Whether a text is a name: no control character and no line end in it."""
    return not any(unicodedata.category(each) in ("Cc", "Zl", "Zp") for each in text)


def _is_shown(character: str) -> bool:
    return character in KEPT or unicodedata.category(character) != "Cc"


def write_escapes(stream: Any) -> None:
    """Let a stream of a narrow encoding, such as ASCII, write what it cannot hold as escapes.

    They are those of JSON, so that an answer written with `--json` stays what it was.
    """
    codecs.register_error(ESCAPES, _escaped)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end
