"""Passages to activations: every position that is read, in the shards that NLAs are trained from.

The text up to each row is left out of the table: neighbouring rows would repeat it token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch

from nlakit.data.extraction import BasePlan, check_same_plan, target_sha256, write_manifest
from nlakit.data.shards import (
    ROW_SCHEMA,
    Manifest,
    ShardRecord,
    is_whole,
    read_record,
    write_shard,
)
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.split import Split

from .texts import Passage, TextSource

SCHEMA = pa.schema([field for field in ROW_SCHEMA if field.name != "text"])
DOCUMENTS_PER_SHARD = 500

Progress = Callable[[int, int], None]


class PassagePlan(BasePlan):
    """What decides a set of activations of passages."""

    source: str
    """The fingerprint of the texts."""
    split: Split


def extract_passages(
    target: Target,
    source: TextSource,
    directory: Path,
    *,
    num_documents: int,
    split: Split = "train",
    progress: Progress | None = None,
) -> Manifest:
    """Read up to `num_documents` documents into shards; those that are there and whole are kept.

    Raises:
        InputError: the source has no document that can be read.
        ResumeError: the directory holds activations of something else.
    """
    plan = PassagePlan(
        source=source.fingerprint,
        split=split,
        num_documents=num_documents,
        positions_per_document=target.max_tokens,
        shard_rows=DOCUMENTS_PER_SHARD,
        layer=target.site.layer,
        d_model=target.d_model,
        target_sha256=target_sha256(target),
    )
    check_same_plan(directory, plan)
    records = list(_shards(target, source, directory, plan, progress))
    if not records:
        raise InputError(f"{source.name} has no {split} document that the target can read.")
    return write_manifest(directory, plan, records)


def _shards(
    target: Target,
    source: TextSource,
    directory: Path,
    plan: PassagePlan,
    progress: Progress | None,
) -> Iterator[ShardRecord]:
    next_index = 0
    for number, start in enumerate(range(0, plan.num_documents, DOCUMENTS_PER_SHARD)):
        count = min(DOCUMENTS_PER_SHARD, plan.num_documents - start)
        record = read_record(directory, number)
        if record is None or not is_whole(directory, record):
            found = list(islice(source.passages(target, plan.split, next_index), count))
            if not found:
                return
            record = _write(target, found, directory, number, plan)
        next_index = record.next_index
        if progress is not None:
            progress(start + record.num_documents, plan.num_documents)
        yield record


def _write(
    target: Target, passages: list[Passage], directory: Path, number: int, plan: PassagePlan
) -> ShardRecord:
    vectors = read_activations(target, passages)
    rows = [row for each in passages for row in _rows(each, plan.layer)]
    return write_shard(
        directory,
        number,
        vectors,
        pa.Table.from_pylist(rows, schema=SCHEMA),
        next_index=passages[-1].index + 1,
        config_hash=plan.hash,
    )


def read_activations(target: Target, passages: list[Passage]) -> torch.Tensor:
    """Raw activations N x D at the read positions of passages, one passage after the other."""
    found = target.activations([p.encoded.ids for p in passages], [p.positions for p in passages])
    return torch.cat(found).float().cpu()


def _rows(passage: Passage, layer: int) -> Iterator[dict[str, str | int]]:
    for position in passage.positions:
        yield {
            "doc_id": passage.id,
            "seed": 0,
            "index": passage.index,
            "position": position,
            "char_end": passage.encoded.offsets[position][1],
            "token_id": passage.encoded.ids[position],
            "n_raw_tokens": position + 1,
            "activation_layer": layer,
        }
