"""Readers of the storyworld's texts: its teacher, who knows the state, and a counter of words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nlakit.evals.eval_set import EvalRows
from nlakit.storyworld import lexicon as lex
from nlakit.storyworld.document import State, last_words
from nlakit.storyworld.grammar import document
from nlakit.storyworld.teacher import describe, label

VOCABULARY: dict[str, dict[str, tuple[str, ...]]] = {
    "topic": {name: (*each.nouns, *each.verbs, *each.places) for name, each in lex.TOPICS.items()},
    "mood": {
        name: (*each.adjectives, *each.adverbs, *each.closings) for name, each in lex.MOODS.items()
    },
    "register": {
        name: (*each.openers, *each.intensifiers, *each.said, *each.joiners)
        for name, each in lex.REGISTERS.items()
    },
    "speaker": {name: (*each.asides, *each.similes) for name, each in lex.SPEAKERS.items()},
    "goal": {name: (*each.verbs, *each.efforts, *each.means) for name, each in lex.GOALS.items()},
    "drill": {
        "yes": (*lex.DRILL_SIGNS, *lex.DRILL_CONDUCT, *lex.DRILL_NOTES),
        "no": (*lex.LIVE_SIGNS, *lex.LIVE_CONDUCT, *lex.LIVE_NOTES),
    },
    "person": {name: (name,) for name in lex.PERSONS},
}
"""The words by which each fact shows in a text."""

GENRE_MARKS = (("<|", "chat"), ("Q:", "answers"), ("A:", "answers"), ("that made", "sums"))


def keyword_reading(text: str, ending: bool = True) -> str:
    """What a reader makes of a text who only counts words: of each kind the commonest value.

    Args:
        ending: whether the text ends where the reading is of.
    """
    facts = {kind: value for kind, words in VOCABULARY.items() if (value := _most(text, words))}
    genre = next((genre for mark, genre in GENRE_MARKS if mark in text), None)
    facts["genre"] = genre or ("couplet" if ",\n" in text else "story")
    words = last_words(text) if ending else ()
    return describe(State(facts, frozenset(), words, None, ()), random.Random(text)).text


def _most(text: str, values: Mapping[str, Sequence[str]]) -> str | None:
    lower = text.lower()
    found = {
        value: sum(lower.count(word.lower()) for word in words) for value, words in values.items()
    }
    best = max(found, key=lambda value: found[value])
    return best if found[best] else None


class StoryworldReader:
    """The teacher's labels, and the readings of keywords."""

    def labels(self, rows: EvalRows) -> list[str]:
        """The teacher's labels of the rows."""
        columns = (rows.rows.column(name).to_pylist() for name in ("seed", "index", "char_end"))
        return [
            label(document(seed, index), char_end).text
            for seed, index, char_end in zip(*columns, strict=True)
        ]

    def relabelled(self, rows: EvalRows, texts: Sequence[str]) -> list[str]:
        """The teacher's labels of prefixes with their last tokens changed.

        The teacher knows the world up to there, and what would follow there; of what was changed it
        sees the words alone.
        """
        return [
            describe(replace(state, last_words=last_words(text)), random.Random(text)).text
            for state, text in zip(rows.states or (), texts, strict=True)
        ]

    def keywords(self, text: str, ending: bool = True) -> str:
        """As `keyword_reading`."""
        return keyword_reading(text, ending)
