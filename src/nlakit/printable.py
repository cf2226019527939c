"""Text of strangers on a terminal: shown, never obeyed."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"


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
