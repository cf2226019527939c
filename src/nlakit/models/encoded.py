"""A text as token ids, with the characters that each token covers."""

from __future__ import annotations

from typing import NamedTuple


class Encoded(NamedTuple):
    """A text as the target reads it.

    Attributes:
        ids: token ids, BOS included.
        offsets: per token, the characters of `text` it covers: [start, end).
        tokens: per token, those characters, or the token's name where it covers none (BOS).
        text: what was encoded (for messages: the rendered conversation).
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    tokens: list[str]
    text: str
