"""`nlakit storyworld`: the world of the bundled NLA, where the truth is known."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.errors import InputError
from nlakit.split import Split
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import generate

Genre = Literal["story", "couplet", "answers", "sums", "chat", "spanish"]
STATES_PER_DOCUMENT = 5


def sample(
    *,
    documents: int = 3,
    seed: int = 0,
    split: Split = "heldout",
    genre: Genre | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print documents with their facts, and the state at several places of each.

    Parameters
    ----------
    documents
        How many.
    seed
        Decides which.
    split
        heldout, or train: what training may see.
    genre
        Only this genre.
    json
        Print one JSON object.
    """
    if documents < 1:
        raise InputError(f"--documents must be 1 or more, found {documents}.")
    made = list(islice(generate(seed, split, genre=genre), documents))
    if json:
        record = {"seed": seed, "split": split, "documents": [describe(each) for each in made]}
        sys.stdout.write(json_format.dumps(record, ensure_ascii=False, indent=2) + "\n")
        return
    for document in made:
        _show(Console(), document)


def describe(document: Document) -> dict[str, Any]:
    """A document with its facts and states, as plain data."""
    return {
        "id": document.id,
        "genre": document.genre,
        "text": document.text,
        "messages": [asdict(message) for message in document.messages],
        "facts": [asdict(fact) for fact in document.facts],
        "states": [_state(document, place) for place in places(document)],
    }


def places(document: Document) -> list[int]:
    """Character offsets spread over the text, each after a word, the last at the end."""
    text = document.text
    ends = [i for i in range(1, len(text)) if text[i].isspace() and not text[i - 1].isspace()]
    ends.append(len(text))
    count = min(STATES_PER_DOCUMENT, len(ends))
    return [ends[(number + 1) * len(ends) // count - 1] for number in range(count)]


def _state(document: Document, char_end: int) -> dict[str, Any]:
    state = document.state(char_end)
    return {
        "char_end": char_end,
        "facts": state.facts,
        "planned": sorted(state.planned),
        "last_words": list(state.last_words),
        "next_slot": state.next_slot,
        "next_words": list(state.next_words),
    }


def _show(console: Console, document: Document) -> None:
    console.rule(f"{document.genre} {document.id}")
    console.print(document.text, markup=False, highlight=False)
    table = Table("after", "established", "planned, unsaid", "next")
    for place in places(document):
        state = document.state(place)
        said = [f"{k} {v}" for k, v in state.facts.items() if k not in state.planned]
        planned = [f"{k} {v}" for k, v in state.facts.items() if k in state.planned]
        row = (" ".join(state.last_words), ", ".join(said), ", ".join(planned))
        table.add_row(*map(Text, (*row, state.next_slot or "open")))
    console.print(table)
