"""Pairs of vector and explanation for training, and the reference's Parquet files of them."""

from __future__ import annotations

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

from .labels import read_labels
from .shards import ShardReader, write_table

INJECT = "<INJECT>"
OPEN_TAG, CLOSE_TAG = "<explanation>", "</explanation>"

DatasetKind = Literal["av_sft", "ar_sft", "rl"]


@dataclass(frozen=True)
class PairSet:
    """Raw vectors with the explanation and the origin (`shards.ROW_SCHEMA`) of each."""

    vectors: Float[Tensor, "N D"]
    explanations: list[str]
    rows: pa.Table

    def __post_init__(self) -> None:
        sizes = {len(self.vectors), len(self.explanations), self.rows.num_rows}
        assert len(sizes) == 1, sizes

    def __len__(self) -> int:
        return len(self.explanations)


def join(*sets: PairSet) -> PairSet:
    """One set of several, in the order given."""
    return PairSet(
        torch.cat([each.vectors for each in sets]),
        [text for each in sets for text in each.explanations],
        pa.concat_tables([each.rows for each in sets]),
    )


def load_pairs(shards_dir: str | Path, labels_path: str | Path) -> PairSet:
    """Activations with their labels, in extraction order; rows the teacher refused are dropped.

    Raises:
        CheckpointError: a shard is corrupt, or the labels belong to other activations.
    """
    reader = ShardReader(shards_dir)
    labels = read_labels(labels_path, reader.manifest)
    vectors, rows = reader.load()
    explanations = labels.column("explanation").to_pylist()
    kept = [row for row, text in enumerate(explanations) if text is not None]
    if len(kept) == len(explanations):
        return PairSet(vectors, explanations, rows)
    return PairSet(vectors[kept], [explanations[row] for row in kept], rows.take(kept))


def training_mean(vectors_ND: Float[Tensor, "N D"], norm: float | None) -> Float[Tensor, " D"]:
    """h̄: the plain mean of the training vectors, each first brought to `norm`. Float32."""
    return to_norm(vectors_ND.double(), norm).mean(dim=0).float()


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
    columns["activation_vector"] = _vector_column(pairs.vectors)
    for name in ("n_raw_tokens", "activation_layer", "doc_id"):
        columns[name] = pairs.rows.column(name)
    columns["detokenized_text_truncated"] = pairs.rows.column("text")
    write_table(Path(path), pa.table(columns))
    write_dataset_meta(path, meta)


def import_parquet(path: str | Path) -> tuple[PairSet, DatasetMeta]:
    """Read a training file of the reference's form; an `rl` file has empty explanations.

    Raises:
        ContractError: the sidecar is missing or wrong.
        InputError: the file cannot be read, lacks a column, or its vectors have another width.
    """
    meta = read_dataset_meta(path)
    table = _read_parquet(Path(path))
    column = table.column("activation_vector")
    vectors = _vectors_in(column, meta.extraction.d_model, Path(path))
    rows = table.drop_columns(
        [name for name in ("prompt", "response") if name in table.column_names]
    )
    return PairSet(
        vectors, _explanations(table, meta), rows.drop_columns(["activation_vector"])
    ), meta


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


def _explanations(table: pa.Table, meta: DatasetMeta) -> list[str]:
    if "response" in table.column_names:
        return [
            _between(text, OPEN_TAG, CLOSE_TAG) for text in table.column("response").to_pylist()
        ]
    prompts: list[Any] = table.column("prompt").to_pylist()
    if meta.prompt_templates.ar is None or not all(isinstance(each, str) for each in prompts):
        return [""] * len(prompts)
    head, _, tail = meta.prompt_templates.ar.partition(AR_SLOT)
    return [_between(text, head, tail) for text in prompts]


def _between(text: str, head: str, tail: str) -> str:
    return text.strip().removeprefix(head.strip()).removesuffix(tail.strip()).strip()
