"""Words of explanations and transcripts: which of them carry a meaning, and who says the same."""

from __future__ import annotations

import re
from functools import lru_cache

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

WORD = re.compile(r"[^\W\d_][\w'-]+")


@lru_cache(maxsize=65_536)
def content_words(text: str) -> frozenset[str]:
    """The words of a text in lower case, without those that every text has."""
    found = (word.strip("'-") for word in WORD.findall(text.lower()))
    return frozenset(word for word in found if len(word) > 2 and word not in ENGLISH_STOP_WORDS)


def said_share(explanation: str, text: str) -> float | None:
    """The share of an explanation's content words that a text says; None where it has none."""
    words = content_words(explanation)
    return len(words & content_words(text)) / len(words) if words else None


def terms(text: str) -> frozenset[str]:
    """Content words, and pairs of content words that follow each other."""
    ordered = [word.strip("'-") for word in WORD.findall(text.lower())]
    kept = content_words(text)
    pairs = (f"{a} {b}" for a, b in zip(ordered, ordered[1:], strict=False) if {a, b} <= kept)
    return kept | frozenset(pairs)
