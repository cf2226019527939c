"""Where the rows of a corpus come from: files, folders and data sets on the hub.

Gives raw rows, or transcripts where a file is of a format of its own, and where each stands.
"""

from __future__ import annotations

import gzip
import importlib
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.errors import InputError, MissingExtraError

from .formats import FILE_FORMATS, row_format

HUGGING_FACE = "hf:"
TEXT_SUFFIXES = (".txt", ".md")
ROW_SUFFIXES = (".jsonl", ".parquet")
OBJECT_SUFFIXES = (".json", ".traj")
SUFFIXES = (*TEXT_SUFFIXES, *ROW_SUFFIXES, *OBJECT_SUFFIXES, ".eval")
COMPRESSED = {".jsonl.xz": lzma.open, ".jsonl.gz": gzip.open}
MOST_CHARS = 256 << 20
"""Of a document and of a line: a file may be sparse, packed a thousandfold, or have no end."""
PARQUET_ROWS = 64
"""Read at a time: a few kilobytes of Parquet may repeat a long text in every row of a file."""
HUB_FORM = "hf:NAME:SPLIT, and what is needed of ?config=CONFIG&text=FIELD"

Raw = TypeVar("Raw", str, bytes)
Rows = Iterator[tuple[Any, str]]
"""Rows or transcripts, and where each stands, in words."""


def files_of(source: str) -> list[Path]:
    """The files of a corpus that is no data set on the hub.

    Of a folder: all of which the suffix says that they may hold documents; a `.json` file only
    where it is a transcript.

    Raises:
        InputError: there is nothing of that name, or nothing in the folder.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        found = [p for p in found if p.suffix != ".json" or _is_transcript(p)]
        if not found:
            raise InputError(f"{path} holds no {', '.join(SUFFIXES)} files that can be read.")
        return found
    if not path.is_file():
        raise InputError(f"Asked for the corpus {source!r}; there is nothing. Check it.")
    return [path]


def rows_of(path: Path) -> Rows:
    """The rows of one file. Raises `InputError` for a file that cannot be read."""
    own = next((each for each in FILE_FORMATS if each.matches(path)), None)
    if own is not None:
        yield from own.read(path)
    elif path.suffix == ".jsonl" or path.name.endswith(tuple(COMPRESSED)):
        yield from _json_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in TEXT_SUFFIXES:
        yield {"text": read_text(path)}, str(path)
    elif path.suffix in OBJECT_SUFFIXES:
        yield from _object_rows(path)
    else:
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, or a folder of these.")


def _json_rows(path: Path) -> Rows:
    opened = next((each for end, each in COMPRESSED.items() if path.name.endswith(end)), open)
    with opened(path, "rb") as file:
        for number, line in enumerate(_lines(file, path), start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                yield json.loads(line), place  # `loads` takes a BOM at the head of bytes
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not JSON: {error}. Put one object a line.") from error


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        while line := file.readline(MOST_CHARS + 1):
            yield _bounded(line, path)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} cannot be unpacked: {error}. Copy it again.") from error


def _object_rows(path: Path) -> Rows:
    """A file that is one object, or a list of objects."""
    found = _read_json(path)
    if not isinstance(found, list):
        yield found, str(path)
        return
    for number, row in enumerate(found):
        yield row, f"{path}, item {number}"


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        raw = _bounded(file.read(MOST_CHARS + 1), path)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}.") from error


def _is_transcript(path: Path) -> bool:
    try:
        found = _read_json(path)
    except InputError:
        return False
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, dict) and row_format(first) is not None


def _parquet_rows(path: Path) -> Rows:
    try:
        file = pq.ParquetFile(path)
        row = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for raw in batch.to_pylist():
                yield without_nulls(raw), f"{path}, row {row}"
                row += 1
    except (pa.ArrowException, MemoryError, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def without_nulls(value: Any) -> Any:
    """A value without fields that are null: a column has every field that some row has.

    A row's text and a message's content stay where they are null, since that says that nothing is
    there; an argument of a call that is called so is one of another call.
    """
    kept = _filled(value)
    if isinstance(value, dict):
        kept |= {name: None for name in ("text", "content") if name in value and name not in kept}
    return kept


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        spoken = ("content",) if "role" in value else ()
        kept = {name: each for name, each in value.items() if each is not None or name in spoken}
        return {name: _filled(each) for name, each in kept.items()}
    return [_filled(each) for each in value] if isinstance(value, list) else value


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises `InputError` where it is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST_CHARS + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}. Convert it first.") from error
    return _bounded(text, path)


def _bounded(text: Raw, path: Path) -> Raw:
    """The text of one document or line, as far as it was read."""
    if len(text) > MOST_CHARS:
        raise InputError(
            f"{path}: a text of more than {MOST_CHARS:,} characters. Split it into documents."
        )
    return text


class HubSource(NamedTuple):
    """What `hf:NAME[:SPLIT][?config=CONFIG&text=FIELD]` asks for.

    Attributes:
        config: which of a dataset's configurations; None: its only or default one.
        text: the field that holds the text or the messages; None: rows have fields of their own.
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


def hub_rows(source: HubSource) -> Rows:
    """The rows of a dataset on the hub, as they are.

    Raises:
        InputError: it cannot be read.
        MissingExtraError: `datasets` is not installed.
    """
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
        yield without_nulls(row), f"{HUGGING_FACE}{source.name}:{source.split}, row {number}"
