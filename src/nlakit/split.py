"""Which texts are held out: a function of the text alone, so that no seed can mix the two."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "heldout"]

# One eighth of all texts, whatever the seed that made them.
HELDOUT_BUCKETS = 32
# A quarter of those: calibrators are fitted on them, and no report reads one.
CALIBRATION_BUCKETS = 64


def split_of(text: str) -> Split:
    """Which split a text belongs to, by its own hash: no seed can put it into both."""
    bucket = hashlib.sha256(text.encode()).digest()[0]
    return "heldout" if bucket < HELDOUT_BUCKETS else "train"


def is_for_calibration(text: str) -> bool:
    """Whether a held-out text of a finite corpus is kept for fitting calibrators.

    By a byte of the hash that the split does not look at. A world without end needs no such share:
    another seed has other documents.
    """
    return hashlib.sha256(text.encode()).digest()[1] < CALIBRATION_BUCKETS
