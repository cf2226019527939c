"""Storyworld documents as a target reads them, and the places where activations are taken.

Knows nothing of files.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.storyworld.document import Document, State
from nlakit.storyworld.grammar import document, generate

SKIPPED_TOKENS = 8
"""Tokens at a document's head that are not read: almost nothing is known there."""
PASSED_OVER_MOST = 500
"""Documents in a row that are too long for a target, before it is taken for one that reads none.

They have no end, so the search for one that fits would have none either.
"""


SAMPLE_SEED, SAMPLE_CHARACTERS = 90_001, 400
"""Of texts to try a pair on: as much of any story as the bundled target's context holds."""


def sample_texts(count: int = 8) -> tuple[str, ...]:
    """Starts of held-out documents."""
    made = islice(generate(SAMPLE_SEED, "heldout"), count)
    return tuple(each.text[:SAMPLE_CHARACTERS] for each in made)


@dataclass(frozen=True)
class EncodedDocument:
    """A document as token ids (BOS included).

    `offsets[p]` are the characters of `document.text` that token `p` covers; (0, 0) for none.
    """

    document: Document
    ids: list[int]
    offsets: list[tuple[int, int]]

    @property
    def index(self) -> int:
        """The document's number within its seed."""
        return int(self.document.id.rpartition("-")[2])


def encode_document(target: Target, made: Document) -> EncodedDocument:
    """Encode a document the way the target was trained on it.

    The role tokens of a chat are special tokens where the target's chat template writes the
    document's text; under another template they are plain text, like everything a person writes.

    Raises:
        InputError: the document is longer than the target's context.
    """
    if made.messages and target.tokenizer.chat_template:
        messages = [{"role": each.role, "content": each.content} for each in made.messages]
        encoded = target.encode_messages(messages)
        head = len(encoded.text) - len(made.text)  # the template may write BOS
        if head >= 0 and encoded.text[head:] == made.text:
            offsets = [(max(0, a - head), max(0, b - head)) for a, b in encoded.offsets]
            return EncodedDocument(made, encoded.ids, offsets)
    encoded = target.encode(made.text)
    return EncodedDocument(made, encoded.ids, encoded.offsets)


def readable_documents(target: Target, made: Iterable[Document]) -> Iterator[EncodedDocument]:
    """The documents that fit the target's context, encoded; longer ones are passed over.

    Raises:
        InputError: `PASSED_OVER_MOST` in a row did not fit.
    """
    passed_over = 0
    for each in made:
        try:
            encoded = encode_document(target, each)
        except InputError as error:
            passed_over += 1
            if passed_over < PASSED_OVER_MOST:
                continue
            raise InputError(
                f"None of {passed_over} documents of the storyworld fits the target's context of "
                f"{target.max_tokens} tokens. The last: {error}"
            ) from error
        passed_over = 0
        yield encoded


def readable_positions(
    encoded: EncodedDocument, skip_first: int = SKIPPED_TOKENS, about: Collection[str] = ()
) -> list[int]:
    """Token positions that may be read: not the first `skip_first`, not a special token's.

    A document with nothing behind those has its last token. With `about`, only positions at which
    a fact of one of these kinds holds.
    """
    last = len(encoded.ids) - 1
    usable = [p for p in range(min(skip_first, last), last + 1) if encoded.offsets[p][1] > 0]
    if not about:
        return usable
    facts = [each for each in encoded.document.facts if each.kind in about]
    return [p for p in usable if any(fact.holds_at(encoded.offsets[p][1]) for fact in facts)]


def sample_positions(
    encoded: EncodedDocument,
    num: int,
    rng: random.Random,
    skip_first: int = SKIPPED_TOKENS,
    about: Collection[str] = (),
) -> list[int]:
    """Up to `num` of the readable positions in order, none twice."""
    usable = readable_positions(encoded, skip_first, about)
    return sorted(rng.sample(usable, min(num, len(usable))))


def states_of(rows: pa.Table) -> list[State]:
    """The state of the world at every row of a row table (`seed`, `index`, `char_end`)."""
    made: dict[tuple[int, int], Document] = {}
    states = []
    columns = (rows.column(name).to_pylist() for name in ("seed", "index", "char_end"))
    for seed, index, char_end in zip(*columns, strict=True):
        if (seed, index) not in made:
            made[seed, index] = document(seed, index)
        states.append(made[seed, index].state(char_end))
    return states
