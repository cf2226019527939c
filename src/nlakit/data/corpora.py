"""Corpora: texts and chats in JSON lines, Parquet, folders, logs of agents, data sets on the hub.

Each gives documents in a fixed order with stable ids. Which split a document is in is a function of
its content, so no copy of a held-out document can occur in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nlakit.errors import InputError, UnreadableError
from nlakit.split import Split, split_of
from nlakit.transcript import Message, Transcript, check_unicode

from .fingerprints import edges
from .formats import NAMES, row_format
from .sources import HUB_FORM, HUGGING_FACE, HubSource, files_of, hub_rows, rows_of

LISTS = ("messages", "conversation", "conversations")
KNOWN = (
    "A row has either `text` or `messages` (a list of objects with `role` and `content`), or the "
    f"fields of one of these formats: {NAMES}."
)


@dataclass(frozen=True)
class CorpusDocument:
    """A text, or the messages of a chat.

    Attributes:
        id: the row's own, else a hash of the content.
        index: counts the documents of the whole corpus.
        tools: schemas of tools, for chat templates that list them.
        metadata: what its source says about it.
        notes: what a reader left out, in words.
        where: file and line or row.
    """

    id: str
    index: int
    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: str = ""

    @property
    def split(self) -> Split:
        """By the hash of the content."""
        return split_of(self.content)

    @property
    def content(self) -> str:
        """The text, or the messages as JSON."""
        return content_of(self.text, self.messages)


class Empty(NamedTuple):
    """A row with nothing in it."""

    index: int


class Refused(NamedTuple):
    """A row that no tokenizer can read, and why."""

    index: int
    reason: str


OnEmpty = Callable[[int], None]
OnRefused = Callable[[Refused], None]


@dataclass(frozen=True)
class Corpus:
    """A corpus by name: a file (.jsonl, also as .xz or .gz, .parquet, .json, .txt, .md, .eval,
    .traj), a folder of files, or a dataset on the hub,
    `hf:NAME[:SPLIT][?config=CONFIG&text=FIELD]`."""

    source: str

    def __iter__(self) -> Iterator[CorpusDocument]:
        """Documents in order; rows with nothing in them are passed over.

        Raises:
            InputError: something cannot be read; names the file and the line or row.
            MissingExtraError: a Hugging Face dataset, and `datasets` is not installed.
        """
        for made in self.rows():
            if isinstance(made, Refused):
                raise UnreadableError(made.reason)
            if isinstance(made, CorpusDocument):
                yield made

    def documents(
        self,
        split: Split,
        first_index: int = 0,
        on_empty: OnEmpty | None = None,
        on_refused: OnRefused | None = None,
    ) -> Iterator[CorpusDocument]:
        """The documents of a split from a document number on.

        Args:
            on_empty: called with the number of each row from there on that has nothing in it; such
                a row belongs to no split.
            on_refused: called for each row from there on that no tokenizer can read; None: such a
                row raises `UnreadableError`.
        """
        for made in self.rows():
            if made.index < first_index:
                continue
            if isinstance(made, CorpusDocument):
                if made.split == split:
                    yield made
            elif isinstance(made, Empty):
                if on_empty is not None:
                    on_empty(made.index)
            elif on_refused is None:
                raise UnreadableError(made.reason)
            else:
                on_refused(made)

    def rows(self) -> Iterator[CorpusDocument | Empty | Refused]:
        """What each row holds, in order."""
        index = 0
        for row, where in self._raw_rows():
            if _is_empty(row):
                yield Empty(index)
                index += 1
                continue
            try:
                made: Sequence[CorpusDocument | Refused] = _document(row, index, where)
            except UnreadableError as error:
                made = [Refused(index, str(error))]
            yield from made
            index += len(made)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' names, sizes and edges; of a Hugging Face dataset, its name."""
        remote = self.source.startswith(HUGGING_FACE)
        digest = hashlib.sha256(self.source.encode() if remote else b"files")
        for path in [] if remote else files_of(self.source):
            digest.update(edges(path))
        return digest.hexdigest()

    def _raw_rows(self) -> Iterator[tuple[Any, str]]:
        if self.source.startswith(HUGGING_FACE):
            source = HubSource.parse(self.source)
            for row, where in hub_rows(source):
                yield _hub_row(row, source.text, where), where
            return
        for path in files_of(self.source):
            yield from rows_of(path)


def _is_empty(row: Any) -> bool:
    """Whether a row has the fields of a document and nothing in them."""
    if isinstance(row, Transcript):
        return not row.messages
    if not isinstance(row, dict) or not row.keys() & {"text", *LISTS}:
        return False
    text = row.get("text")
    blank = text is None or (isinstance(text, str) and not text.strip())
    return blank and not any(row.get(name) for name in LISTS) and row_format(row) is None


def _document(row: Any, index: int, where: str) -> list[CorpusDocument]:
    """The document of a row; several, numbered from `index`, where its format holds several."""
    if isinstance(row, Transcript):
        return [_chat(row, index, where)]
    raw = row if isinstance(row, Mapping) else {}
    text = raw.get("text")
    if isinstance(text, str) and text and not any(raw.get(name) for name in LISTS):
        check_unicode(text, where)
        return [CorpusDocument(_name(raw.get("id"), text), index, text, where=where)]
    found = row_format(raw) if text is None else None
    if found is None and text is not None and not isinstance(text, str):
        raise InputError(f"{where}: `text` is a {type(text).__name__}, not a string. Decode it.")
    if found is None:
        names = f"a row with {', '.join(map(repr, raw))}" if raw else f"{row!r}"[:80]
        raise InputError(f"{where}: found {names}. {KNOWN}")
    chats = [each for each in found.read(raw, where) if each.messages]
    return [_chat(each, index + number, where) for number, each in enumerate(chats)]


def _hub_row(row: Mapping[str, Any], field: str | None, place: str) -> Mapping[str, Any]:
    """A row in fields that are known."""
    if field is None and ("text" in row or row.get("messages") == [] or row_format(row)):
        return row
    field = field or "text"
    if field not in row:
        raise InputError(
            f"{place} has no field {field!r}; it has {', '.join(map(repr, row))}. Name the one "
            f"that holds the text: {HUB_FORM}."
        )
    value = row[field]
    turns = isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    name = "text" if not turns else "conversations" if "from" in value[0] else "messages"
    return {"id": row.get("id"), name: value}


def _chat(made: Transcript, index: int, where: str) -> CorpusDocument:
    return CorpusDocument(
        id=_name(made.id or None, content_of(None, made.messages)),
        index=index,
        messages=made.messages,
        tools=made.tools,
        metadata=made.metadata,
        notes=made.notes,
        where=where,
    )


def _name(own: object, content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:24] if own is None else str(own)


def content_of(text: str | None, messages: Sequence[Message]) -> str:
    """What decides the split: the text, or what the messages say."""
    if text is not None:
        return text
    return json.dumps([dict(each.known_fields) for each in messages], sort_keys=True)
