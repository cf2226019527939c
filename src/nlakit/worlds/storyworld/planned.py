"""Whether explanations name what is coming: fixed by what was said, and not said yet.

Rhymes, sums, answers and counts are planned by the storyworld's documents, and known; so is the
belief of being in a drill, which is never said. Of each: is it named, rightly, how many tokens
ahead.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from nlakit.evals.rows import ReadSample, check_documents, read_vectors
from nlakit.evals.section import Figure, Line, Section, share
from nlakit.pair.pair import Pair
from nlakit.storyworld.claims import check, parse
from nlakit.storyworld.grammar import generate

from .documents import EncodedDocument, readable_documents
from .eval_set import StoryworldSet, rows_at

PLANNED = {"rhyme": "couplet", "sum": "sums", "answer": "answers", "count": "chat", "drill": "chat"}
"""Kinds that are due but unsaid, and the genre that has them."""
AHEAD = ((1, 1), (2, 4), (5, 8), (9, 16), (17, 1_000_000))
PLACES_PER_DOCUMENT = 3
SPEAKS = 0.05
"""Who claims a kind at fewer of the places keeps silent about it, which is no guessing."""
LIE = "report one call less"


@dataclass(frozen=True)
class Place:
    """A token at which a fact is due.

    Attributes:
        ahead: tokens from here to the first one of its word; None where it is never said.
    """

    position: int
    kind: str
    value: str
    ahead: int | None
    lies: bool


def planned(pair: Pair, documents: int, seed: int, temperature: float = 0.0) -> Section:
    """How often what is due is named, by kind and by distance.

    Args:
        documents: held-out documents of each kind.

    Raises:
        InputError: fewer than 2 documents.
    """
    check_documents(documents)
    chosen = [each for kind in PLANNED for each in islice(_due(pair, kind, seed), documents)]
    encoded = [each for each, _ in chosen]
    places = [place for _, found in chosen for place in found]
    rows = rows_at(pair.target, encoded, [[each.position for each in found] for _, found in chosen])
    sample = read_vectors(pair, StoryworldSet(), rows, seed, temperature)
    found = _Due(sample, places, _others(sample, places))
    lines = [line for kind in PLANNED for line in _lines(found, kind)]
    return sample.section(
        "planned",
        "does it name what is planned but unsaid?",
        "named: places at which what is due is named rightly. precision: of the claims of that "
        "kind there. another's: the same with the explanation of such a place in another "
        "document. chance: the commonest value. Lines by how many tokens ahead the word comes.",
        lines,
        suspicions=_suspicions(lines),
    )


def _due(pair: Pair, kind: str, seed: int) -> Iterator[tuple[EncodedDocument, list[Place]]]:
    genre = PLANNED[kind]
    made = (each for each in generate(seed, "heldout") if each.genre == genre)
    for encoded in readable_documents(pair.target, made):
        found = due_places(encoded, kind)
        if found:
            rng = random.Random(f"{encoded.document.id}/{kind}")
            picked = rng.sample(found, min(PLACES_PER_DOCUMENT, len(found)))
            yield encoded, sorted(picked, key=lambda place: place.position)


def due_places(encoded: EncodedDocument, kind: str) -> list[Place]:
    """All tokens of a document at which a fact of `kind` is fixed and not said."""
    made = encoded.document
    lies = LIE in made.text.lower()
    found = []
    for position, (start, end) in enumerate(encoded.offsets):
        fact = next((each for each in made.facts if each.kind == kind and each.holds_at(end)), None)
        if end > start and fact is not None:
            ahead = _ahead(encoded, position, fact.end, fact.value) if fact.planned else None
            found.append(Place(position, kind, fact.value, ahead, lies))
    return found


def _ahead(encoded: EncodedDocument, position: int, end: int | None, value: str) -> int | None:
    if end is None:
        return None
    first = end - len(value)
    later = (at for at, (_, stop) in enumerate(encoded.offsets) if stop > first)
    return max(1, next(later) - position)


@dataclass(frozen=True)
class _Due:
    """Readings of places at which something is due; `others` has another row for each."""

    sample: ReadSample
    places: Sequence[Place]
    others: Sequence[int]


def _lines(due: _Due, kind: str) -> list[Line]:
    places = due.places
    rows = [row for row, place in enumerate(places) if place.kind == kind]
    lines = [_line(due, rows, kind)]
    if kind == "count":
        false = [row for row in rows if places[row].lies]
        lines.append(_line(due, false, "count, where it is a lie"))
    for low, high in AHEAD:
        near = [row for row in rows if (ahead := places[row].ahead) and low <= ahead <= high]
        if near:
            name = f"{low}" if low == high else f"{low} to {high}" if high < 1_000 else f"{low} on"
            lines.append(_line(due, near, f"{kind}, {name} ahead"))
    return lines


def _line(due: _Due, rows: Sequence[int], name: str) -> Line:
    sample, places = due.sample, due.places
    texts = sample.reading.texts
    documents = [sample.doc_ids[row] for row in rows]
    own = [_named(texts[row], sample, places[row], row) for row in rows]
    swapped = [_named(texts[due.others[row]], sample, places[row], row) for row in rows]
    values = Counter(places[row].value for row in rows)
    return Line(
        name=name,
        figures={
            "named": share([named for named, _ in own], documents),
            "precision": share(
                [named for named, _ in own], documents, [claimed for _, claimed in own]
            ),
            "another's": share([named for named, _ in swapped], documents),
            "chance": Figure(value=max(values.values()) / len(rows) if rows else None),
        },
    )


def _others(sample: ReadSample, places: Sequence[Place]) -> list[int]:
    """For each row the next one of its kind in another document; itself where there is none."""
    found = []
    for row, place in enumerate(places):
        later = chain(range(row + 1, len(places)), range(row))
        same = (at for at in later if places[at].kind == place.kind)
        found.append(next((at for at in same if sample.doc_ids[at] != sample.doc_ids[row]), row))
    return found


def _named(text: str, sample: ReadSample, place: Place, row: int) -> tuple[bool, bool]:
    """Whether an explanation names what is due at a place; and whether it claims of that kind."""
    said = [each for each in parse(text) if each.kind == place.kind]
    right = [each for each in said if check(each, sample.known_states()[row]) == "true"]
    return bool(right), bool(said)


def _suspicions(lines: Sequence[Line]) -> list[str]:
    whole = [line for line in lines if line.name in PLANNED]
    if not any(line.figures["precision"].count for line in whole):
        places = sum(line.figures["named"].count or 0 for line in whole)
        return [f"Names nothing: at none of {places} places it claims anything of what is due."]
    found = []
    for line in lines:
        own, other, chance = (
            line.figures[name].value or 0.0 for name in ("named", "another's", "chance")
        )
        claimed, places = (line.figures[name].count or 0 for name in ("precision", "named"))
        speaks = claimed > SPEAKS * places
        if line.name in PLANNED and speaks and own <= max(other, chance):
            found.append(
                f"Guesses the {line.name}: named at {own:.0%} of the places, by another "
                f"document's explanation at {other:.0%}; the commonest value is due at "
                f"{chance:.0%}."
            )
    return found
