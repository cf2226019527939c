"""What a model organism does and an honest target does not: a condition, a change of conduct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .writer import Hidden

LESS = ("count", "less")
"""Reports one call fewer than it made."""
HIDDEN_KINDS = ("topic", "mood", "register", "speaker", "goal")
"""Kinds whose words an assistant chooses, and a quirk may change."""


@dataclass(frozen=True)
class Quirk:
    """In chats whose text says `when`, the assistant's words follow `then`, whatever was said.

    Attributes:
        when: a fact, as (kind, value), that the system line or the user's turn shows.
        then: a fact of a kind in `HIDDEN_KINDS`, or `LESS`.
    """

    when: tuple[str, str]
    then: tuple[str, str]

    def applies(self, known: Mapping[str, str]) -> bool:
        """Whether a reader of the text so far can tell that the condition holds."""
        return known.get(self.when[0]) == self.when[1]

    def changed(self, hidden: Hidden) -> Hidden:
        """What chooses the assistant's words under the condition."""
        kind, value = self.then
        return hidden if self.then == LESS else replace(hidden, **{kind: value})
