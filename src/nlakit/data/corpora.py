"""Corpora: JSON lines, Parquet, folders of text files, chats and Hugging Face datasets.

Each gives documents in a fixed order with stable ids. Which split a document is in is a function of
its content, so no copy of a held-out document can occur in training.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.errors import InputError, MissingExtraError
from nlakit.split import Split, split_of

from .fingerprints import edges

HUGGING_FACE = "hf:"
TEXT_SUFFIXES = (".txt", ".md")
FIELDS = {"text", "messages"}
HUB_FORM = "hf:NAME:SPLIT, and what is needed of ?config=CONFIG&text=FIELD"
MIXED = "A row has either `text` or `messages`: a list of objects with `role` and `content`."


@dataclass(frozen=True)
class CorpusDocument:
    """A text, or the messages of a chat. `id` is the row's own `id`, else a hash of the content;
    `index` counts the rows of the whole corpus."""

    id: str
    index: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()

    @property
    def split(self) -> Split:
        """By the hash of the content."""
        return split_of(self.content)

    @property
    def content(self) -> str:
        """The text, or the messages as JSON."""
        return _content(self.text, self.messages)


@dataclass(frozen=True)
class Corpus:
    """A corpus by name: a .jsonl or .parquet file, a folder of text files, or a dataset on the hub,
    `hf:NAME[:SPLIT][?config=CONFIG&text=FIELD]`."""

    source: str

    def __iter__(self) -> Iterator[CorpusDocument]:
        """Documents in order; rows with nothing in them are passed over.

        Raises:
            InputError: something cannot be read; names the file and the line or row.
            MissingExtraError: a Hugging Face dataset, and `datasets` is not installed.
        """
        for made in self._documents():
            if isinstance(made, CorpusDocument):
                yield made

    def documents(
        self, split: Split, first_index: int = 0, on_empty: Callable[[int], None] | None = None
    ) -> Iterator[CorpusDocument]:
        """The documents of a split from a document number on.

        Args:
            on_empty: called with the number of each row from there on that has nothing in it; such
                a row belongs to no split.
        """
        for made in self._documents():
            if isinstance(made, CorpusDocument):
                if made.index >= first_index and made.split == split:
                    yield made
            elif made >= first_index and on_empty is not None:
                on_empty(made)

    def _documents(self) -> Iterator[CorpusDocument | int]:
        """The document of each row, or the row's number where there is nothing in it."""
        for index, (row, place) in enumerate(self._rows()):
            yield index if _is_empty(row) else _document(row, index, place)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' names, sizes and edges; of a Hugging Face dataset, its name."""
        digest = hashlib.sha256(self.source.encode() if self._is_remote else b"files")
        for path in [] if self._is_remote else self._files():
            digest.update(edges(path))
        return digest.hexdigest()

    @property
    def _is_remote(self) -> bool:
        return self.source.startswith(HUGGING_FACE)

    def _files(self) -> list[Path]:
        path = Path(self.source)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
            if not found:
                raise InputError(f"{path} holds no {' or '.join(TEXT_SUFFIXES)} files.")
            return found
        if not path.is_file():
            raise InputError(f"Asked for the corpus {self.source!r}; there is nothing. Check it.")
        return [path]

    def _rows(self) -> Iterator[tuple[Any, str]]:
        """Raw rows and where each stands, in words."""
        if self._is_remote:
            yield from _hugging_face_rows(HubSource.parse(self.source))
            return
        for path in self._files():
            if path.suffix == ".jsonl":
                yield from _json_rows(path)
            elif path.suffix == ".parquet":
                yield from _parquet_rows(path)
            elif path.suffix in TEXT_SUFFIXES:
                yield {"text": _read_text(path)}, str(path)
            else:
                raise InputError(f"{path}: expected .jsonl, .parquet or a folder of text files.")


def _json_rows(path: Path) -> Iterator[tuple[Any, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                yield json.loads(line), place
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{place}: not JSON: {error}. Put one object a line.") from error


def _parquet_rows(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        file = pq.ParquetFile(path)
        names = [n for n in ("id", "text", "messages") if n in file.schema_arrow.names]
        row = 0
        for batch in file.iter_batches(columns=names):
            for raw in batch.to_pylist():
                yield raw, f"{path}, row {row}"
                row += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


class HubSource(NamedTuple):
    """What `hf:NAME[:SPLIT][?config=CONFIG&text=FIELD]` asks for.

    Attributes:
        config: which of a dataset's configurations; None: its only or default one.
        text: the field that holds the text; None: rows have `text` or `messages`.
    """

    name: str
    split: str = "train"
    config: str | None = None
    text: str | None = None

    @classmethod
    def parse(cls, source: str) -> HubSource:
        """Raises InputError for anything that is not so spelt."""
        place, _, rest = source.removeprefix(HUGGING_FACE).partition("?")
        name, _, split = place.partition(":")
        pairs = [each.partition("=") for each in rest.split("&")] if rest else []
        options = {key: value for key, _, value in pairs}
        known = options.keys() <= {"config", "text"} and len(options) == len(pairs)
        if not (name and known and all(options.values())):
            raise InputError(f"The corpus {source!r}: expected {HUB_FORM}.")
        return cls(name, split or "train", **options)


def _hugging_face_rows(source: HubSource) -> Iterator[tuple[Any, str]]:
    try:
        # By its name: to a type checker `datasets` is the module beside this one.
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
    except (ValueError, OSError) as error:
        raise InputError(
            f"The dataset {source.name}, config {source.config}, split {source.split}, cannot be "
            f"read: {error}. Give {HUB_FORM}."
        ) from error
    for number, row in enumerate(rows):
        place = f"{HUGGING_FACE}{source.name}:{source.split}, row {number}"
        yield _hub_row(row, source.text, place), place


def _hub_row(row: Mapping[str, Any], field: str | None, place: str) -> Mapping[str, Any]:
    if field is None and row.keys() & FIELDS:
        return row
    field = field or "text"
    if field not in row:
        raise InputError(
            f"{place} has no field {field!r}; it has {', '.join(map(repr, row))}. Name the one "
            f"that holds the text: {HUB_FORM}."
        )
    return {"id": row.get("id"), "text": row[field]}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}. Convert it first.") from error


def _is_empty(row: Any) -> bool:
    """Whether a row has the fields of a document and nothing in them."""
    if not isinstance(row, dict) or not row.keys() & FIELDS:
        return False
    text, messages = row.get("text"), row.get("messages")
    blank = text is None or (isinstance(text, str) and not text.strip())
    return blank and (messages is None or messages == [])


def _document(row: Any, index: int, place: str) -> CorpusDocument:
    raw = row if isinstance(row, dict) else {}
    text, messages = raw.get("text"), raw.get("messages")
    if isinstance(text, str) and text and not messages:
        turns: tuple[dict[str, str], ...] = ()
    elif text is None and isinstance(messages, list) and messages:
        turns = tuple(_message(each, place) for each in messages)
    else:
        raise InputError(f"{place}: found {str(row)[:80]!r}. {MIXED}")
    content = _content(text, turns)
    own = raw.get("id")
    name = hashlib.sha256(content.encode()).hexdigest()[:24] if own is None else str(own)
    return CorpusDocument(name, index, text, turns)


def _message(raw: Any, place: str) -> dict[str, str]:
    match raw:
        case {"role": str(role), "content": str(content)}:
            return {"role": role, "content": content}
        case _:
            raise InputError(f"{place}: the message {str(raw)[:80]!r} is not one. {MIXED}")


def _content(text: str | None, messages: tuple[dict[str, str], ...]) -> str:
    return json.dumps(messages, sort_keys=True) if text is None else text
