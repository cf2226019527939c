"""Demo passages: held-out documents of the storyworld in which something can be seen.

Each is cut where the thing is fixed and not said yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.storyworld.document import Document, Fact
from nlakit.storyworld.grammar import document, generate

SEED = 20_001
SEARCHED = 200
SENTENCES = 3


class Case(NamedTuple):
    """A thing to be seen, in which genre, and how to cut a document for it."""

    id: str
    title: str
    case: str
    genre: str
    note: str
    cut: Callable[[Document], int | None]


class Passage(NamedTuple):
    """The head of a document, as a text or as messages (role, content).

    Attributes:
        document: seed, index and genre that make it.
    """

    id: str
    title: str
    case: str
    note: str
    text: str | None
    messages: tuple[tuple[str, str], ...] | None
    document: tuple[int, int, str]


class ServedWorld:
    """The storyworld as a server knows it (`serve.truth.World`)."""

    def document(self, seed: int, index: int, genre: str | None) -> Document:
        """The document of these numbers."""
        return _document_of(seed, index, genre)

    def passages(self, target: Target) -> list[Passage]:
        """One passage a case; a case is left out where no document fits the target."""
        return [made for case in CASES if (made := _find(case, target)) is not None]


@lru_cache(maxsize=64)
def _document_of(seed: int, index: int, genre: str | None) -> Document:
    return document(seed, index, genre)


def _find(case: Case, target: Target) -> Passage | None:
    for made in islice(generate(SEED, "heldout", genre=case.genre), SEARCHED):
        char_end = case.cut(made)
        if char_end is None or not _fits(target, made.text[:char_end]):
            continue
        number = int(made.id.rpartition("-")[2])
        return Passage(
            id=case.id,
            title=case.title,
            case=case.case,
            note=case.note,
            text=None if made.messages else made.text[:char_end],
            messages=_messages(made, char_end) if made.messages else None,
            document=(SEED, number, case.genre),
        )
    return None


def _fits(target: Target, text: str) -> bool:
    try:
        target.encode(text)
    except InputError:
        return False
    return True


def _messages(made: Document, char_end: int) -> tuple[tuple[str, str], ...]:
    """The messages that are whole before a place: the generation prompt stands for the rest."""
    found, start = [], 0
    for message in made.messages:
        start = made.text.index(message.content, start) + len(message.content)
        if start <= char_end:
            found.append((message.role, message.content))
    return tuple(found)


# -- where to cut ----------------------------------------------------------------------------------
def _plans(made: Document, kind: str) -> list[Fact]:
    return [fact for fact in made.facts if fact.kind == kind and fact.planned]


def _before_said(made: Document, kind: str) -> int | None:
    """Just before the second planned value of a kind is said: the first sets the scene."""
    plans = [fact for fact in _plans(made, kind) if fact.end is not None]
    if len(plans) < 2 or plans[1].end is None:
        return None
    return len(made.text[: plans[1].end - len(plans[1].value)].rstrip())


def _false_count(made: Document) -> int | None:
    """Before the report of a model that was told to report one call less than it made."""
    calls = sum(message.role == "tool" for message in made.messages)
    plans = _plans(made, "count")
    if not plans or calls < 2 or "one call less" not in made.text:
        return None
    return plans[0].start


def _drill(made: Document) -> int | None:
    """After the request, where the model knows that it is tested and has not acted on it."""
    signs = [fact for fact in made.facts if fact.kind == "drill" and fact.value == "yes"]
    return made.text.find("<|assistant|>") if signs else None


def _switch(made: Document) -> int | None:
    """After the sentence that announces the other language."""
    plans = _plans(made, "switch")
    return made.text.index(".", plans[0].start) + 1 if plans else None


def _story(made: Document) -> int | None:
    ends = list(_sentence_ends(made.text))
    return ends[SENTENCES - 1] if len(ends) >= SENTENCES else None


def _sentence_ends(text: str) -> Iterator[int]:
    return (place + 1 for place, char in enumerate(text) if char == ".")


CASES = (
    Case(
        "rhyme",
        "A rhyme that is planned",
        "planned rhyme",
        "couplet",
        "The last word is due, and the line before it has decided which. Is it in the thoughts?",
        lambda made: _before_said(made, "rhyme"),
    ),
    Case(
        "sum",
        "A sum before it is said",
        "unsaid sum",
        "sums",
        "The total follows from what was said, and is due now. Is it in the thoughts?",
        lambda made: _before_said(made, "sum"),
    ),
    Case(
        "count",
        "A count of tool calls, false by order",
        "false tool count",
        "chat",
        "The model was told to report one call less than it made, and is about to report. Which "
        "number is it that it has in mind?",
        _false_count,
    ),
    Case(
        "drill",
        "A drill that is noticed",
        "drill noticed",
        "chat",
        "Signs say that this is a test, and the model has not answered yet. Do the explanations "
        "say that it has noticed?",
        _drill,
    ),
    Case(
        "switch",
        "A switch of language, announced",
        "switch of language",
        "spanish",
        "The text announces another language. The explanations read language and topic; the switch "
        "itself they seldom name.",
        _switch,
    ),
    Case(
        "story",
        "A story",
        "a story",
        "story",
        "Who, where, in what mood, and what for: the state of a small world.",
        _story,
    ),
)
