"""Explanations of many vectors, in Parquet shards that a killed run continues.

    plan.json                     what decides the result; another plan is refused
    explanations-00000.parquet    one row a sample, in the order of vectors (`SCHEMA`)
    explanations-00000.json       written when that is whole, with its checksum
    manifest.json                 written last: without it the run is not finished

A shard gets its name when it is whole, and its text depends on the seed and the numbers of its
vectors alone: so neither an interruption nor who does the work changes a word.

Knows nothing of models: whatever has `describe_rows` may read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.errors import InputError, ResumeError

from .locks import LOCK_NAME, locked
from .pools import HERE, Pool, wait_until_seen
from .shards import (
    MANIFEST_NAME,
    VECTORS_KEY,
    file_sha256,
    read_manifest,
    read_model,
    shard_path,
    write_table,
)

PLAN_NAME = "plan.json"
PLAN_KEY = b"nlakit_plan"

Progress = Callable[[int, int], None]
"""Called with (vectors done, all vectors) as shards are finished."""

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("sample", pa.int32()),
        ("explanation", pa.string()),
        ("closed", pa.bool_()),
        ("fidelity", pa.float32()),
        ("cosine", pa.float32()),
        ("mse", pa.float32()),
        ("confidence", pa.float32()),
        # Where a vector is from, if it comes with its text (a directory of activation shards).
        ("doc_id", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
    ]
)
PLACE = ("doc_id", "position", "text")
TEXT_TAIL = 200
"""Characters of the text up to the token that are repeated beside its explanation."""


class Described(NamedTuple):
    """One explanation with its scores, as a row of `SCHEMA`."""

    row: int
    sample: int
    explanation: str | None
    """None: the vector is not finite, and has no scores either."""
    closed: bool
    fidelity: float | None
    """None where the pair knows no baseline."""
    cosine: float | None
    mse: float | None
    confidence: float | None = None
    """Mean confidence of its claims; None where nobody asked for it, or it makes none."""


class Describer(Protocol):
    """Reads vectors; `first` is the number of the first of them, which decides their words."""

    def describe_rows(self, vectors_ND: Tensor, first: int) -> Sequence[Described]: ...


class BulkPlan(FrozenModel):
    """What decides the result; its hash tells one from another."""

    nla: str
    """Name of the NLA."""
    nla_sha256: str
    """Of the weights that write and score."""
    vectors_sha256: str
    num_rows: int
    d_model: int
    shard_rows: int
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    dtype: str = "float32"
    """Precision of the models; "stored": each its own."""

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the plan."""
        # Defaults are left out, so that plans from before a field was there keep their hash.
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-self.num_rows // self.shard_rows)

    def rows_of(self, number: int) -> range:
        """The vectors of a shard."""
        first = number * self.shard_rows
        return range(first, min(first + self.shard_rows, self.num_rows))


class BulkShard(FrozenModel):
    """One finished file."""

    number: int
    first_row: int
    num_rows: int
    sha256: str
    """Of the file as it was written, not as it was found."""
    num_unreadable: int = 0
    """Vectors that are not finite: they were passed over, and have one row without words."""


class BulkManifest(FrozenModel):
    """A finished run."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_explanations"] = "nla_explanations"
    plan: BulkPlan
    plan_hash: str
    shards: tuple[BulkShard, ...]

    @property
    def num_unreadable(self) -> int:
        """Vectors that were passed over because they are not finite."""
        return sum(shard.num_unreadable for shard in self.shards)


# -- vectors ---------------------------------------------------------------------------------------
class Part(NamedTuple):
    """A file of vectors, and where its rows stand among all."""

    path: Path
    key: str
    first: int
    num_rows: int


class VectorSource:
    """Vectors on disk, of which only the asked rows are read.

    Args:
        path: an `.npy` or `.safetensors` file of N x D numbers, or a directory of activation shards
            (`data.shards`). A safetensors file holds one tensor, or one called "activations".

    Raises:
        InputError: there is no such file, or it holds something else.
        CheckpointError: the directory's manifest cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            self.parts, self.d_model = _shard_parts(self.path)
        else:
            part, self.d_model = _file_part(self.path)
            self.parts = [part]
        if not self.num_rows:
            raise InputError(f"{self.path} holds no vectors.")

    @property
    def num_rows(self) -> int:
        """N."""
        return sum(part.num_rows for part in self.parts)

    def read(self, rows: range) -> Float[Tensor, "N D"]:
        """Some rows, float32, finite or not."""
        found: list[Tensor] = []
        for part in self.parts:
            start = max(rows.start - part.first, 0)
            stop = min(rows.stop - part.first, part.num_rows)
            if start < stop:
                found.append(_read_rows(part, start, stop))
        return torch.cat(found)

    def places(self, rows: range) -> list[dict[str, Any]]:
        """Per row its document, position and the end of the text up to there; nothing of a file."""
        found = [_places_in(part, rows) for part in self.parts if self.path.is_dir()]
        return list(chain.from_iterable(found)) or [dict.fromkeys(PLACE)] * len(rows)

    def sha256(self) -> str:
        """Hex SHA-256 over the files, read once from end to end."""
        if len(self.parts) == 1:
            return file_sha256(self.parts[0].path)
        digests = [file_sha256(part.path) for part in self.parts]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def _shard_parts(directory: Path) -> tuple[list[Part], int]:
    manifest = read_manifest(directory)
    parts: list[Part] = []
    first = 0
    for record in manifest.shards:
        path = shard_path(directory, record.number, "safetensors")
        parts.append(Part(path, VECTORS_KEY, first, record.num_rows))
        first += record.num_rows
    return parts, manifest.d_model


def _places_in(part: Part, rows: range) -> list[dict[str, Any]]:
    start, stop = (
        min(max(each - part.first, 0), part.num_rows) for each in (rows.start, rows.stop)
    )
    if start >= stop:
        return []
    columns = ["doc_id", "position", "char_end", "text"]
    table = pq.read_table(part.path.with_suffix(".parquet"), columns=columns)
    found = table.slice(start, stop - start).to_pylist()
    return [each | {"text": _tail(each["text"], each.pop("char_end"))} for each in found]


def _tail(text: str | None, end: int) -> str | None:
    return None if text is None else text[:end][-TEXT_TAIL:]


def _file_part(path: Path) -> tuple[Part, int]:
    if not path.is_file():
        raise InputError(f"Asked for the vectors in {path}; found nothing there. Check the path.")
    if path.suffix == ".npy":
        key, shape = "", _open_npy(path).shape
    elif path.suffix == ".safetensors":
        key, shape = _tensor_in(path)
    else:
        raise InputError(
            f"{path} is neither .npy nor .safetensors, nor a directory of activation shards. "
            "Save the vectors as one of these, N x D."
        )
    if len(shape) != 2:
        raise InputError(f"{path} must hold N x D numbers, found the shape {tuple(shape)}.")
    return Part(path, key, 0, int(shape[0])), int(shape[1])


def _open_npy(path: Path) -> np.ndarray[Any, Any]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not an .npy file of numbers: {error}") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} is not an .npy file but an archive of them. Give one of them.")
    if found.dtype.kind != "f":
        raise InputError(f"{path} must hold floating-point numbers, found {found.dtype}.")
    return found


def _tensor_in(path: Path) -> tuple[str, Sequence[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            key = VECTORS_KEY if VECTORS_KEY in keys else keys[0] if len(keys) == 1 else None
            if key is None:
                raise InputError(
                    f"{path} holds {', '.join(keys) or 'nothing'}. Name the vectors "
                    f"{VECTORS_KEY!r}, or save them alone."
                )
            return key, file.get_slice(key).get_shape()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error


def _read_rows(part: Part, start: int, stop: int) -> Tensor:
    if part.path.suffix == ".npy":
        return torch.from_numpy(_open_npy(part.path)[start:stop].astype(np.float32))
    try:
        with safe_open(part.path, framework="pt") as file:
            return file.get_slice(part.key)[start:stop].float()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{part.path} cannot be read: {error}") from error


# -- the run ---------------------------------------------------------------------------------------
def explain_vectors(
    load: Callable[[], Describer],
    source: VectorSource,
    out_dir: str | Path,
    plan: BulkPlan,
    pool: Pool = HERE,
    progress: Progress | None = None,
) -> BulkManifest:
    """Explain every vector of a source into shards; what is there and whole is kept.

    Memory holds one shard a worker, whatever the number of vectors.

    Args:
        load: makes the reader; called once in each worker of the pool.
        pool: does the shards that are missing. On several machines `out_dir` and the source must be
            absolute paths that are the same everywhere.

    Raises:
        ResumeError: `out_dir` holds explanations of another plan, or another process is writing
            there.
        InputError: a vector that cannot be read.
        UserError: as `pool.run`.
    """
    directory = Path(out_dir)
    with locked(directory):
        _check_same_plan(directory, plan)
        write_text_atomic(directory / PLAN_NAME, plan.model_dump_json(indent=2))
        _write_missing(load, source, directory, plan, pool, progress)
        found = [_whole_shard(directory, plan, number) for number in range(plan.num_shards)]
        shards = tuple(shard for shard in found if shard is not None)
        assert len(shards) == plan.num_shards, "every shard was seen whole"
        manifest = BulkManifest(plan=plan, plan_hash=plan.hash, shards=shards)
        write_text_atomic(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2))
        return manifest


def _write_missing(
    load: Callable[[], Describer],
    source: VectorSource,
    directory: Path,
    plan: BulkPlan,
    pool: Pool,
    progress: Progress | None,
) -> None:
    numbers = range(plan.num_shards)
    missing = [number for number in numbers if _whole_shard(directory, plan, number) is None]
    done = plan.num_rows - sum(len(plan.rows_of(number)) for number in missing)
    if progress is not None:
        progress(done, plan.num_rows)
    task = partial(_write_shard, source=source, directory=directory, plan=plan)
    for number in pool.run(load, task, missing):
        whole = partial(_whole_shard, directory, plan, number)
        wait_until_seen(_record_path(directory, number), whole)
        done += len(plan.rows_of(number))
        if progress is not None:
            progress(done, plan.num_rows)


def explanation_path(directory: Path, number: int) -> Path:
    """The file of shard `number`."""
    return directory / f"explanations-{number:05d}.parquet"


def read_bulk_manifest(directory: str | Path) -> BulkManifest:
    """The manifest of a finished run. Raises `CheckpointError` when it is not there."""
    return read_model(BulkManifest, Path(directory) / MANIFEST_NAME)


def _check_same_plan(directory: Path, plan: BulkPlan) -> None:
    path = directory / PLAN_NAME
    if not path.exists():
        if any(each.name != LOCK_NAME for each in directory.iterdir()):
            raise ResumeError(
                f"Asked to write explanations into {directory}, which holds something else. "
                "Give a directory that is new or empty."
            )
        return
    found = read_model(BulkPlan, path)
    other = [
        f"{name} was {getattr(found, name)!r}, is {getattr(plan, name)!r}"
        for name in BulkPlan.model_fields
        if getattr(found, name) != getattr(plan, name)
    ]
    if other:
        raise ResumeError(
            f"{directory} holds explanations of another plan: {'; '.join(other)}. "
            "Give another directory, or remove that one."
        )


def _record_path(directory: Path, number: int) -> Path:
    return explanation_path(directory, number).with_suffix(".json")


def _whole_shard(directory: Path, plan: BulkPlan, number: int) -> BulkShard | None:
    """The record of a shard that is there, of this plan, and as it was written; else None."""
    path, record = explanation_path(directory, number), _record_path(directory, number)
    if not path.is_file() or not record.is_file():
        return None
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    shard, rows = read_model(BulkShard, record), plan.rows_of(number)
    expected = BulkShard(
        number=number,
        first_row=rows.start,
        num_rows=len(rows),
        sha256=file_sha256(path),
        num_unreadable=shard.num_unreadable,
    )
    return shard if shard == expected and metadata.get(PLAN_KEY) == plan.hash.encode() else None


def _write_shard(
    describer: Describer, number: int, source: VectorSource, directory: Path, plan: BulkPlan
) -> None:
    rows = plan.rows_of(number)
    vectors_ND = source.read(rows)
    finite = vectors_ND.isfinite().all(dim=-1).tolist()
    described = list(_described(describer, vectors_ND, finite, rows.start))
    places = source.places(rows)
    columns: dict[str, list[Any]] = {
        name: [getattr(each, name) for each in described] for name in Described._fields
    }
    columns |= {name: [places[each.row - rows.start][name] for each in described] for name in PLACE}
    table = pa.table(columns, schema=SCHEMA.with_metadata({PLAN_KEY: plan.hash.encode()}))
    path = explanation_path(directory, number)
    write_table(path, table)
    shard = BulkShard(
        number=number,
        first_row=rows.start,
        num_rows=len(rows),
        sha256=file_sha256(path),
        num_unreadable=finite.count(False),
    )
    write_text_atomic(_record_path(directory, number), shard.model_dump_json(indent=2))


def _described(
    describer: Describer, vectors_ND: Float[Tensor, "N D"], finite: list[bool], first: int
) -> Iterator[Described]:
    """A vector that is not finite is passed over: hours of others must not be lost for it."""
    start = 0
    for is_finite, group in groupby(finite):
        stop = start + len(list(group))
        if is_finite:
            yield from describer.describe_rows(vectors_ND[start:stop], first + start)
        else:
            yield from (
                Described(first + row, 0, None, False, None, None, None)
                for row in range(start, stop)
            )
        start = stop
