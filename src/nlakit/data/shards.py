"""Shards of activations: raw float32 vectors in safetensors, a row table in Parquet beside each.

    manifest.json                 written last: without it the set is not finished
    shard-00000.safetensors       key "activations", [rows, D]
    shard-00000.parquet           one row of the table a vector
    shard-00000.json              written when both are whole; checksums and config hash

Every file is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import torch
from jaxtyping import Float
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.config import FrozenModel, validate_json, write_text_atomic
from nlakit.errors import CheckpointError
from nlakit.models.tensor_files import write_tensors

MANIFEST_NAME = "manifest.json"
VECTORS_KEY = "activations"
NUM_REASONS = 3
"""Rows that were passed over of which a manifest says why."""
SHARD_RECORD = re.compile(r"shard-\d{5}\.json")

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)

ROW_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("position", pa.int32()),
        ("char_end", pa.int32()),
        ("token_id", pa.int32()),
        ("n_raw_tokens", pa.int32()),
        ("activation_layer", pa.int32()),
        ("text", pa.string()),
        # Of a chat: the messages so far, as characters of `text`.
        (
            "turns",
            pa.list_(
                pa.struct([("role", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
            ),
        ),
        # What the target expects next, the likeliest first; null where nobody asked it.
        (
            "next_tokens",
            pa.list_(pa.struct([("text", pa.string()), ("probability", pa.float32())])),
        ),
    ]
)


class ShardRecord(FrozenModel):
    """What one shard holds, and the checksums of its two files."""

    number: int
    num_rows: int
    num_documents: int
    next_index: int
    """Document index from which the next shard goes on."""
    num_empty: int = 0
    """Rows of the corpus without a text that were passed over on the way."""
    num_refused: int = 0
    """Rows that the tokenizer or the chat template cannot read, passed over on the way."""
    refusals: tuple[str, ...] = ()
    """Why, of the first few."""
    vectors_sha256: str
    rows_sha256: str
    config_hash: str


class Manifest(FrozenModel):
    """A finished set of shards."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_activations"] = "nla_activations"
    layer: int
    d_model: int
    num_rows: int
    num_documents: int
    num_empty: int = 0
    """Rows of the corpus without a text that were passed over."""
    num_refused: int = 0
    """Rows that the tokenizer or the chat template cannot read, passed over."""
    refusals: tuple[str, ...] = ()
    """Why, of the first few."""
    config: dict[str, JsonValue]
    config_hash: str
    shards: tuple[ShardRecord, ...]


def shard_path(directory: Path, number: int, suffix: str) -> Path:
    """The file of shard `number` with `suffix` ("safetensors", "parquet", "json")."""
    return directory / f"shard-{number:05d}.{suffix}"


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name, sync it and give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file (zstd), atomically."""
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def write_shard(
    directory: Path | None,
    number: int,
    vectors_ND: Float[Tensor, "N D"],
    rows: pa.Table,
    *,
    next_index: int,
    config_hash: str,
    num_empty: int = 0,
    refusals: Sequence[str] = (),
) -> ShardRecord:
    """Write one shard, its record last, and return the record.

    Args:
        directory: None: write nothing; the record has no checksums.
    """
    assert len(vectors_ND) == rows.num_rows, (len(vectors_ND), rows.num_rows)
    record = ShardRecord(
        number=number,
        num_rows=rows.num_rows,
        num_documents=len(rows.column("doc_id").unique()),
        next_index=next_index,
        num_empty=num_empty,
        num_refused=len(refusals),
        refusals=tuple(refusals[:NUM_REASONS]),
        vectors_sha256="",
        rows_sha256="",
        config_hash=config_hash,
    )
    if directory is None:
        return record
    vectors_path = shard_path(directory, number, "safetensors")
    write_tensors(vectors_path, {VECTORS_KEY: vectors_ND.float().contiguous()})
    rows_path = shard_path(directory, number, "parquet")
    write_table(rows_path, rows)
    sums = {"vectors_sha256": file_sha256(vectors_path), "rows_sha256": file_sha256(rows_path)}
    record = record.model_copy(update=sums)
    write_text_atomic(shard_path(directory, number, "json"), record.model_dump_json(indent=2))
    return record


def read_record(directory: Path, number: int) -> ShardRecord | None:
    """The record of a shard that was written to its end, or None where there is none of it."""
    path = shard_path(directory, number, "json")
    record = read_model(ShardRecord, path) if path.exists() else None
    # One that was copied or moved over from another shard is none.
    return record if record is not None and record.number == number else None


def is_whole(directory: Path, record: ShardRecord) -> bool:
    """Whether both files of a shard are there and as they were written."""
    return all(
        path.is_file() and file_sha256(path) == expected
        for path, expected in _files(directory, record)
    )


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of a finished set.

    Raises:
        CheckpointError: there is none (extraction did not finish), or it cannot be read.
    """
    path = Path(directory) / MANIFEST_NAME
    if not path.exists():
        raise CheckpointError(
            f"{directory} has no {MANIFEST_NAME}: extraction did not finish there. Run it again."
        )
    return read_model(Manifest, path)


class ShardReader:
    """The shards of a finished set, each checked against the manifest before it is used."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = read_manifest(directory)

    def __len__(self) -> int:
        return self.manifest.num_rows

    def __iter__(self) -> Iterator[tuple[Tensor, pa.Table]]:
        """Vectors [rows, D] (memory-mapped) and row table of each shard in turn.

        Raises:
            CheckpointError: a file is missing, changed, or of another shape than recorded.
        """
        for record in self.manifest.shards:
            yield self.shard(record)

    def shard(self, record: ShardRecord) -> tuple[Tensor, pa.Table]:
        """One shard; raises as iteration does."""
        vectors_ND = self._vectors(record)
        return vectors_ND, self._rows(record)

    def vectors(self) -> list[Tensor]:
        """The vectors of each shard, checked, memory-mapped. Raises as iteration does."""
        return [self._vectors(record) for record in self.manifest.shards]

    def table(self) -> pa.Table:
        """The row tables of all shards as one. Raises as iteration does."""
        return pa.concat_tables([self._rows(record) for record in self.manifest.shards])

    def _rows(self, record: ShardRecord) -> pa.Table:
        path = shard_path(self.directory, record.number, "parquet")
        check_sha256(path, record.rows_sha256, "Remove the directory and extract again.")
        return pq.read_table(path)

    def _vectors(self, record: ShardRecord) -> Tensor:
        path = shard_path(self.directory, record.number, "safetensors")
        check_sha256(path, record.vectors_sha256, "Remove the directory and extract again.")
        try:
            vectors_ND = load_file(path)[VECTORS_KEY]
        except (SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        shape = (record.num_rows, self.manifest.d_model)
        if tuple(vectors_ND.shape) != shape:
            raise CheckpointError(
                f"{path}: found shape {tuple(vectors_ND.shape)}, "
                f"the manifest says {shape}. Extract again."
            )
        return vectors_ND

    def load(self) -> tuple[Float[Tensor, "N D"], pa.Table]:
        """All shards as one matrix and one table. Raises as iteration does."""
        parts = list(self)
        return torch.cat([part[0] for part in parts]), pa.concat_tables([p[1] for p in parts])


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path, record: ShardRecord) -> tuple[tuple[Path, str], tuple[Path, str]]:
    return (
        (shard_path(directory, record.number, "safetensors"), record.vectors_sha256),
        (shard_path(directory, record.number, "parquet"), record.rows_sha256),
    )


def check_sha256(path: Path, expected: str, advice: str) -> None:
    """Raise `CheckpointError`, with what to do, unless a file is as a manifest has it."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and the manifest names it. {advice}")
    found = file_sha256(path)
    if found != expected:
        raise CheckpointError(
            f"{path} is corrupt: SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…. "
            f"{advice}"
        )


def read_model(model_cls: type[ModelT], path: Path) -> ModelT:
    """A frozen model from a JSON file. Raises `CheckpointError` when it is not one."""
    try:
        return validate_json(model_cls, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise CheckpointError(f"{path} is not a {model_cls.__name__}: {error}") from error
