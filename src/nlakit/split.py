"""Which texts are held out: a function of the text alone, so that no seed can mix the two."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "heldout"]

# One eighth of all texts, whatever the seed that made them.
HELDOUT_BUCKETS = 32


def split_of(text: str) -> Split:
    """Which split a text belongs to, by its own hash: no seed can put it into both."""
    bucket = hashlib.sha256(text.encode()).digest()[0]
    return "heldout" if bucket < HELDOUT_BUCKETS else "train"
