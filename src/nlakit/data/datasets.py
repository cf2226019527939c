"""Pairs of vector and explanation for training, and the reference's Parquet files of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.contract import (
    AR_SLOT,
    AV_SLOT,
    DatasetMeta,
    read_dataset_meta,
    write_dataset_meta,
)
from nlakit.core.scale import to_norm
from nlakit.errors import InputError

from .labels import label_files, read_explanations
from .shards import ShardReader, write_table
from .streams import StoredTable, TextRows, VectorRows, Vectors

CHUNK_ROWS = 8192
"""Vectors that are in memory at once while figures of all of them are taken."""
INJECT = "<INJECT>"
OPEN_TAG, CLOSE_TAG = "<explanation>", "</explanation>"

DatasetKind = Literal["av_sft", "ar_sft", "rl"]


@dataclass(frozen=True)
class StoredRows:
    """Raw vectors, in memory or on disk, and where each was taken (`shards.ROW_SCHEMA`)."""

    vectors_ND: Vectors
    table: pa.Table | StoredTable

    @property
    def rows(self) -> pa.Table:
        """The origin of each; read anew each time where it is on disk."""
        return self.table if isinstance(self.table, pa.Table) else self.table.read()


@dataclass(frozen=True)
class PairSet:
    """Raw vectors with the explanation and the origin (`shards.ROW_SCHEMA`) of each, in memory or
    on disk."""

    vectors: Vectors
    explanations: Sequence[str]
    table: pa.Table | StoredTable

    def __post_init__(self) -> None:
        sizes = {len(self.vectors), len(self.explanations), self.table.num_rows}
        assert len(sizes) == 1, sizes

    def __len__(self) -> int:
        return len(self.explanations)

    @property
    def rows(self) -> pa.Table:
        """The origin of each; read anew each time where it is on disk."""
        return self.origins.rows

    @property
    def origins(self) -> StoredRows:
        """The same without explanations."""
        return StoredRows(self.vectors, self.table)


def join(*sets: PairSet) -> PairSet:
    """One set of several, in memory, in the order given."""
    return PairSet(
        torch.cat([each.vectors[:] for each in sets]),
        [text for each in sets for text in each.explanations],
        pa.concat_tables([each.rows for each in sets]),
    )


def load_pairs(shards_dir: str | Path, labels_path: str | Path) -> PairSet:
    """Activations with their labels, in extraction order; rows the teacher refused are left out.

    Files are checked against their checksums now, and stay on disk: rows are read when they are
    asked for.

    Raises:
        CheckpointError: a shard is corrupt, or the labels belong to other activations.
    """
    reader = ShardReader(shards_dir)
    files, parts = label_files(labels_path, reader.manifest), reader.vectors()
    whole = StoredRows(VectorRows(parts), StoredTable(len(reader), reader.table))
    labelled = [
        np.array([text is not None for text in read_explanations(file)], bool) for file in files
    ]
    kept = np.flatnonzero(np.concatenate(labelled))
    texts = TextRows(
        [len(each) for each in labelled], lambda place: read_explanations(files[place]), kept
    )
    if len(kept) == len(reader):
        return PairSet(whole.vectors_ND, texts, whole.table)
    table = StoredTable(len(kept), lambda: whole.rows.take(kept))
    return PairSet(VectorRows(parts, kept), texts, table)


def stored_vectors(reader: ShardReader) -> StoredRows:
    """The rows of a finished set, which stay on disk. Raises `CheckpointError` as reading does."""
    return StoredRows(VectorRows(reader.vectors()), StoredTable(len(reader), reader.table))


def training_mean(vectors_ND: Vectors, norm: float | None) -> Float[Tensor, " D"]:
    """h̄: the plain mean of the training vectors, each first brought to `norm`. Float32."""
    total_D = torch.zeros(vectors_ND.shape[1], dtype=torch.float64)
    for some_ND in in_chunks(vectors_ND):
        total_D += to_norm(some_ND.double(), norm).sum(dim=0)
    return (total_D / len(vectors_ND)).float()


def training_variance(vectors_ND: Vectors, mean_D: Tensor, norm: float | None) -> float:
    """Mean squared distance of a component of the training vectors, brought to `norm`, to h̄'s."""
    total = 0.0
    for some_ND in in_chunks(vectors_ND):
        total += float((to_norm(some_ND, norm) - mean_D).square().sum(dtype=torch.float64))
    return total / (len(vectors_ND) * vectors_ND.shape[1])


def in_chunks(vectors_ND: Vectors) -> Iterator[Tensor]:
    """The vectors a few at a time."""
    starts = range(0, len(vectors_ND), CHUNK_ROWS)
    return (vectors_ND[first : first + CHUNK_ROWS] for first in starts)


# -- the reference's files -------------------------------------------------------------------------
def export_parquet(path: str | Path, pairs: PairSet, kind: DatasetKind, meta: DatasetMeta) -> None:
    """Write a training file with the reference's columns (method.md §2) and its sidecar.

    Raises:
        InputError: `meta` is about vectors of another width, or has no template for `kind`.
    """
    width = pairs.vectors.shape[1]
    if meta.extraction.d_model != width:
        raise InputError(f"The sidecar says d_model {meta.extraction.d_model}, found {width}.")
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"prompt": _prompts(pairs, kind, meta)}
    if kind == "av_sft":
        responses = [f"{OPEN_TAG}{text}{CLOSE_TAG}" for text in pairs.explanations]
        columns["response"] = pa.array(responses, pa.string())
    columns["activation_vector"] = _vector_column(pairs.vectors[:])
    rows = pairs.rows
    for name in ("n_raw_tokens", "activation_layer", "doc_id"):
        columns[name] = rows.column(name)
    columns["detokenized_text_truncated"] = rows.column("text")
    write_table(Path(path), pa.table(columns))
    write_dataset_meta(path, meta)


def import_parquet(path: str | Path) -> tuple[PairSet, DatasetMeta]:
    """Read a training file of the reference's form; an `rl` file has empty explanations.

    Raises:
        ContractError: the sidecar is missing or wrong.
        InputError: the file cannot be read, lacks a column, its vectors have another width or are
            of another layer, or a text does not have the sidecar's form.
    """
    meta = read_dataset_meta(path)
    table = _read_parquet(Path(path))
    _check_layer(table, meta, Path(path))
    column = table.column("activation_vector")
    vectors = _vectors_in(column, meta.extraction.d_model, Path(path))
    rows = table.drop_columns(
        [name for name in ("prompt", "response") if name in table.column_names]
    )
    texts = _explanations(table, meta, Path(path))
    return PairSet(vectors, texts, rows.drop_columns(["activation_vector"])), meta


def _vectors_in(column: pa.ChunkedArray, width: int, path: Path) -> Float[Tensor, "N D"]:
    """The vectors of a column, float32.

    Raises:
        InputError: they are no lists of numbers; or naming the first row that is missing, of
            another width, or not finite.
    """
    kind = column.type
    is_list = any(
        check(kind) for check in (pa.types.is_list, pa.types.is_large_list,
                                  pa.types.is_fixed_size_list)
    )  # fmt: skip
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InputError(
            f"{path}: activation_vector is of the type {kind}; lists of floating-point numbers are "
            "read. Write each vector as such a list."
        )
    widths = pc.fill_null(pc.call_function("list_value_length", [column]), -1).to_numpy()
    wrong = np.flatnonzero(widths != width)
    if len(wrong):
        row = int(wrong[0])
        found = "is missing" if widths[row] < 0 else f"has {widths[row]} numbers"
        raise InputError(
            f"{path}: the vector of row {row} {found}, the sidecar says {width}. Use the sidecar "
            "made with the file, or leave the row out."
        )
    # A null inside a list becomes NaN, and is found with the others.
    flat = pc.cast(pc.call_function("list_flatten", [column]), pa.float32()).to_numpy()
    vectors_ND = np.array(flat, dtype=np.float32).reshape(len(column), width)
    bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path}: the vector of row {int(bad[0])} is not finite or has a number missing "
            f"({len(bad)} such rows of {len(column)}). Leave them out."
        )
    return torch.from_numpy(vectors_ND)


def _prompts(pairs: PairSet, kind: DatasetKind, meta: DatasetMeta) -> pa.Array:
    template = getattr(meta.prompt_templates, "ar" if kind == "ar_sft" else "av")
    if template is None:
        raise InputError(f"A {kind} file needs a prompt template that the sidecar does not have.")
    if kind == "ar_sft":
        return pa.array([template.replace(AR_SLOT, text) for text in pairs.explanations])
    message = {"role": "user", "content": template.replace(AV_SLOT, INJECT)}
    return pa.array([[message]] * len(pairs))


def _vector_column(vectors_ND: Float[Tensor, "N D"]) -> pa.FixedSizeListArray:
    flat = pa.array(vectors_ND.float().contiguous().numpy().ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])


def _read_parquet(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    missing = {"prompt", "activation_vector", "doc_id"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} lacks {sorted(missing)}; it has {table.column_names}.")
    return table


def _check_layer(table: pa.Table, meta: DatasetMeta, path: Path) -> None:
    """Refuse rows that are of another layer than the sidecar says."""
    asked = meta.extraction.layer_index
    if "activation_layer" not in table.column_names:
        return
    layers: list[Any] = table.column("activation_layer").to_pylist()
    row = next((index for index, layer in enumerate(layers) if layer != asked), None)
    if row is not None:
        raise InputError(
            f"{path}: row {row} has the activation_layer {layers[row]}, the sidecar says {asked}. "
            "Write the rows of each layer to a file of their own."
        )


def _explanations(table: pa.Table, meta: DatasetMeta, path: Path) -> list[str]:
    if "response" in table.column_names:
        responses = table.column("response").to_pylist()
        return [
            _tagged(text, f"{path}: the response of row {i}") for i, text in enumerate(responses)
        ]
    prompts: list[Any] = table.column("prompt").to_pylist()
    if not any(isinstance(each, str) for each in prompts):  # messages: there is no text yet
        return [""] * len(prompts)
    if meta.prompt_templates.ar is None:
        raise InputError(f"{path}: prompts are texts; the sidecar has no template `ar`.")
    ends = meta.prompt_templates.ar.split(AR_SLOT)
    return [_filled_in(text, ends, f"{path}: the prompt of row {i}")
            for i, text in enumerate(prompts)]  # fmt: skip


def _tagged(text: Any, what: str) -> str:
    """The explanation of a response, its tags left out."""
    if not isinstance(text, str):
        raise InputError(f"{what} is {text!r}, not text. Leave the row out.")
    found = text.strip()
    if found.startswith(OPEN_TAG) != found.endswith(CLOSE_TAG):
        raise InputError(f"{what} has one of {OPEN_TAG} and {CLOSE_TAG} alone. Leave the row out.")
    return found.removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG).strip()


def _filled_in(text: Any, ends: list[str], what: str) -> str:
    """What stands in a template's slot. `ends`: the template before and behind it."""
    head, tail = ends[0].strip(), ends[-1].strip()
    found = text.strip() if isinstance(text, str) else ""
    if not (found.startswith(head) and found.endswith(tail)):
        raise InputError(
            f"{what} is {text!r:.60}, which does not begin and end as the sidecar's template `ar`. "
            "Use the sidecar made with the file."
        )
    return found.removeprefix(head).removesuffix(tail).strip()
