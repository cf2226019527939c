"""What every set of activations has: a plan, whose hash tells one from another, and a manifest.

Who reads documents into one: `corpus_extraction`, and a world of documents of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.errors import ResumeError
from nlakit.models.sharding import whole_weights
from nlakit.models.target import Target

from .shards import (
    MANIFEST_NAME,
    NUM_REASONS,
    SHARD_RECORD,
    Manifest,
    ShardRecord,
    is_whole,
    read_manifest,
    read_model,
    read_record,
)

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""


class BasePlan(FrozenModel):
    """What decides any set of activations; its hash tells one set from another."""

    num_documents: int
    positions_per_document: int
    shard_rows: int
    layer: int
    d_model: int
    target_sha256: str

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the plan."""
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class ActivationRows(NamedTuple):
    """Raw vectors [N, D] and the table that says where each was taken (`ROW_SCHEMA`)."""

    vectors_ND: Float[Tensor, "N D"]
    rows: pa.Table


def write_manifest(directory: Path, plan: BasePlan, records: Sequence[ShardRecord]) -> Manifest:
    """Write what `records` of `plan` add up to; it is written last, so what has one is whole."""
    manifest = manifest_of(plan, records)
    write_text_atomic(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2))
    return manifest


def manifest_of(plan: BasePlan, records: Sequence[ShardRecord]) -> Manifest:
    """What `records` of `plan` add up to."""
    return Manifest(
        layer=plan.layer,
        d_model=plan.d_model,
        num_rows=sum(record.num_rows for record in records),
        num_documents=sum(record.num_documents for record in records),
        num_empty=sum(record.num_empty for record in records),
        num_refused=sum(record.num_refused for record in records),
        refusals=tuple(each for record in records for each in record.refusals)[:NUM_REASONS],
        config=plan.model_dump(mode="json"),
        config_hash=plan.hash,
        shards=tuple(records),
    )


def finished_set(directory: Path, plan: BasePlan) -> Manifest | None:
    """The manifest of a set of this plan, all of whose shards are as they were written."""
    if not (directory / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(directory)
    whole = (
        read_record(directory, record.number) == record and is_whole(directory, record)
        for record in manifest.shards
    )
    return manifest if manifest.config_hash == plan.hash and all(whole) else None


def target_sha256(target: Target) -> str:
    """Hex SHA-256 over the names and values of a target's weights."""
    digest = hashlib.sha256()
    for name, tensor in whole_weights(target.model):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_same_plan(directory: Path, plan: BasePlan) -> None:
    """Refuse a directory that another plan was extracted into. Raises ResumeError."""
    found = {}
    for path in directory.glob("shard-*.json"):
        if SHARD_RECORD.fullmatch(path.name):
            found[path.name] = read_model(ShardRecord, path).config_hash
    if (directory / MANIFEST_NAME).exists():
        found[MANIFEST_NAME] = read_manifest(directory).config_hash
    other = [name for name, value in sorted(found.items()) if value != plan.hash]
    if other:
        raise ResumeError(
            f"Asked to extract into {directory}, which holds activations of another seed, split, "
            f"size or target ({other[0]}). Give another directory, or remove that one."
        )
