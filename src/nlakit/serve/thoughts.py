"""What a model thinks apart from what it says, while it is being written.

Knows the tags of `models.chat_marks`; of models and HTTP it knows nothing.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from nlakit.models.chat_marks import THINK_TAG, closes

LONGEST_TAG = 32
"""Characters; a longer name in brackets is no tag of thoughts."""
MAYBE_TAG = re.compile(rf"[<\[][^<>\[\]]{{0,{LONGEST_TAG}}}\Z")
"""The end of a text that may become a tag."""


class Said(NamedTuple):
    """Words of one section."""

    section: Literal["thinking", "content"]
    text: str


class ThoughtSplitter:
    """Takes an answer in pieces, gives it back in sections, without the tags.

    Args:
        prompt: what the answer follows; a template may have opened a block of thoughts at its end.
    """

    def __init__(self, prompt: str = "") -> None:
        tags = list(THINK_TAG.finditer(prompt))
        opened = bool(tags) and not closes(tags[-1]) and not prompt[tags[-1].end() :].strip()
        self._thinking, self._held, self._begun = opened, "", False

    def push(self, piece: str) -> list[Said]:
        """What this piece settles; the start of what may be a tag is held back."""
        self._held += piece
        found = self._settled()
        maybe = MAYBE_TAG.search(self._held)
        end = len(self._held) if maybe is None else maybe.start()
        rest, self._held = self._held[:end], self._held[end:]
        return [*found, *self._words(rest)]

    def flush(self) -> list[Said]:
        """What was held back: nothing follows."""
        rest, self._held = self._held, ""
        return self._words(rest)

    def _settled(self) -> list[Said]:
        found: list[Said] = []
        while (tag := THINK_TAG.search(self._held)) is not None:
            found += self._words(self._held[: tag.start()])
            self._held = self._held[tag.end() :]
            self._thinking, self._begun = not closes(tag), False
        return found

    def _words(self, text: str) -> list[Said]:
        """Blanks at the start of a section are the template's."""
        text = text if self._begun else text.lstrip()
        if not text:
            return []
        self._begun = True
        return [Said("thinking" if self._thinking else "content", text)]
