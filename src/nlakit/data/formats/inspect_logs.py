"""Logs of Inspect: `.eval`, a zip whose members may be zstd, whole or chunked; and its JSON."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from nlakit.errors import InputError
from nlakit.transcript import Message, Transcript

from .agent_messages import read_messages
from .base import FileFormat, Row, RowFormat, not_one, notes_of, own_id, scalars

ZSTD = 93
"""The zip method that `zipfile` reads from Python 3.14 on only."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
MEMBER = re.compile(r"samples/(?P<name>.+_epoch_\d+)(?:\.json|/sample\.json)")
ATTACHMENT = "attachment://"


def matches(path: Path) -> bool:
    return path.suffix == ".eval"


def read(path: Path) -> Iterator[tuple[Transcript, str]]:
    """The transcripts of a log, one a sample, in the order of their names.

    Raises:
        InputError: no zip file, a member that cannot be read, or a sample of another shape.
    """
    try:
        with zipfile.ZipFile(path) as file:
            log = _Log(path, file)
            about = log.about()
            for name in sorted(filter(None, map(_sample_name, file.namelist()))):
                where = f"{path}, sample {name}"
                yield _transcript(log.sample(name), name, about, where), where
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is not an Inspect log: {error}.") from error


def _sample_name(member: str) -> str | None:
    found = MEMBER.fullmatch(member)
    return found["name"] if found else None


class _Log:
    """The members of a log."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path, self.file = path, file
        self.names = set(file.namelist())

    def about(self) -> dict[str, Any]:
        """Task and model: of a run that has not ended, from its journal."""
        name = next((n for n in ("header.json", "_journal/start.json") if n in self.names), None)
        header = self.json(name) if name else {}
        evaluation = header.get("eval") if isinstance(header, dict) else None
        wanted = ("task", "model", "run_id")
        found = evaluation if isinstance(evaluation, dict) else {}
        made = {each: found[each] for each in wanted if isinstance(found.get(each), str)}
        return made if name == "header.json" else {**made, "unfinished": True}

    def sample(self, name: str) -> Row:
        """A sample with its messages and attachments, however it is stored."""
        whole = f"samples/{name}.json"
        if whole in self.names:
            return self.json(whole)
        shell = self.json(f"samples/{name}/sample.json")
        pool = self.sequence(name, "messages")
        wanted = [n for start, end in shell.get("message_refs") or () for n in range(start, end)]
        attachments = self.sequence(name, "attachments")
        numbered = {str(number): text for number, text in enumerate(attachments)}
        return {**shell, "messages": [pool[n] for n in wanted], "attachments": numbered}

    def sequence(self, name: str, what: str) -> list[Any]:
        prefix = f"samples/{name}/{what}/"
        chunks = (each.removeprefix(prefix) for each in self.names if each.startswith(prefix))
        starts = sorted(int(c.removesuffix(".json")) for c in chunks if c[:-5].isdigit())
        return [item for start in starts for item in self.json(f"{prefix}{start}.json")]

    def json(self, member: str) -> Any:
        try:
            return json.loads(self._bytes(self.file.getinfo(member)))
        except (ValueError, NotImplementedError, pa.ArrowException, struct.error) as error:
            raise InputError(f"{self.path}: {member} cannot be read: {error}.") from error

    def _bytes(self, info: zipfile.ZipInfo) -> bytes:
        if info.compress_type != ZSTD:
            return self.file.read(info)
        with self.path.open("rb") as raw:
            raw.seek(info.header_offset)
            _, name_size, extra_size = LOCAL_HEADER.unpack(raw.read(LOCAL_HEADER.size))
            raw.seek(name_size + extra_size, 1)
            packed = raw.read(info.compress_size)
        return pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()


def _transcript(sample: Row, name: str, about: Row, where: str) -> Transcript:
    omitted: Counter[str] = Counter()
    resolve = _resolver(sample.get("attachments"), omitted)
    listed = sample.get("messages")
    if not isinstance(listed, list):
        raise not_one(sample, where, "a sample with messages")
    messages = tuple(read_messages(resolve(listed), omitted, where))
    if not messages and isinstance(sample.get("input"), str):
        messages = (Message.of("user", resolve(sample["input"])),)
    metadata = {**about, **scalars(sample, ("id", "uuid", "input")), **_scores(sample)}
    extra = sample.get("metadata")
    if isinstance(extra, dict):
        metadata |= {f"metadata_{key}": value for key, value in scalars(extra).items()}
    identity = own_id(sample, "uuid") or name
    return Transcript(identity, messages, (), {**metadata, "sample": name}, notes_of(omitted))


def _scores(sample: Row) -> dict[str, Any]:
    scores = sample.get("scores")
    pairs = scores.items() if isinstance(scores, dict) else ()
    values = {f"score_{name}": each.get("value") for name, each in pairs if isinstance(each, dict)}
    return scalars(values)


def _resolver(attachments: object, omitted: Counter[str]) -> Callable[[Any], Any]:
    """Puts attachments where a text refers to one; of those that are not there the name stays."""
    held: Mapping[str, Any] = attachments if isinstance(attachments, Mapping) else {}

    def resolve(value: Any) -> Any:
        if isinstance(value, str):
            if not value.startswith(ATTACHMENT):
                return value
            found = held.get(value.removeprefix(ATTACHMENT))
            if not isinstance(found, str):
                omitted["attachment that is not in the log"] += 1
            return found if isinstance(found, str) else value
        if isinstance(value, dict):
            return {name: resolve(each) for name, each in value.items()}
        return [resolve(each) for each in value] if isinstance(value, list) else value

    return resolve


def matches_json(row: Row) -> bool:
    return isinstance(row.get("samples"), list) and isinstance(row.get("eval"), dict)


def read_json(row: Row, where: str) -> list[Transcript]:
    """A log in JSON, as `--log-format json` writes it."""
    wanted = ("task", "model", "run_id")
    about = {n: row["eval"][n] for n in wanted if isinstance(row["eval"].get(n), str)}
    return [
        _transcript(sample, f"{sample.get('id')}_epoch_{sample.get('epoch')}", about, where)
        for sample in row["samples"]
        if isinstance(sample, dict)
    ]


FORMAT = FileFormat("inspect", matches, read)
JSON_LOG = RowFormat("inspect-json", matches_json, read_json)
