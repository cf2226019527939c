"""Storyworld documents to activations: in memory, or in shards that a killed run continues.

Which documents and which places are read is a function of the seed and the document's number, so
the rows do not depend on where a run was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from nlakit.data.extraction import (
    ActivationRows,
    BasePlan,
    Progress,
    check_same_plan,
    finished_set,
    target_sha256,
    write_manifest,
)
from nlakit.data.locks import locked
from nlakit.data.shards import (
    ROW_SCHEMA,
    Manifest,
    ShardRecord,
    is_whole,
    read_record,
    write_shard,
)
from nlakit.models.target import Target
from nlakit.split import Split
from nlakit.storyworld.grammar import generate

from .documents import (
    EncodedDocument,
    readable_documents,
    readable_positions,
    sample_positions,
)

DOCUMENTS_PER_PASS = 256


class ExtractionPlan(BasePlan):
    """What decides a set of activations of the storyworld."""

    seed: int
    split: Split
    about: tuple[str, ...] = ()
    """Only places where a fact of one of these kinds holds; empty: any place."""


def read_documents(
    target: Target,
    documents: list[EncodedDocument],
    positions_per_document: int,
    on_documents: Callable[[int], None] | None = None,
    about: Collection[str] = (),
) -> ActivationRows:
    """Activations at `positions_per_document` places of each document, of those `about` allows.

    `on_documents` is called with the number of documents read by each pass.
    """
    places = [
        sample_positions(
            each, positions_per_document, random.Random(f"{each.document.id}/places"), about=about
        )
        for each in documents
    ]
    return read_places(target, documents, places, on_documents)


def read_places(
    target: Target,
    documents: list[EncodedDocument],
    places: list[list[int]],
    on_documents: Callable[[int], None] | None = None,
) -> ActivationRows:
    """Activations at the given token positions of each document."""
    assert documents, "no documents to read"
    vectors: list[Tensor] = []
    for start in range(0, len(documents), DOCUMENTS_PER_PASS):
        chunk = slice(start, start + DOCUMENTS_PER_PASS)
        vectors += target.activations([each.ids for each in documents[chunk]], places[chunk])
        if on_documents is not None:
            on_documents(len(documents[chunk]))
    rows = [
        _row(each, position, target.site.layer)
        for each, positions in zip(documents, places, strict=True)
        for position in positions
    ]
    return ActivationRows(
        torch.cat(vectors).float().cpu(), pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    )


def sample_storyworld(
    target: Target,
    seed: int,
    split: Split,
    num_documents: int,
    positions_per_document: int = 1,
    progress: Progress | None = None,
) -> ActivationRows:
    """The first `num_documents` readable documents of a split, read in memory."""
    documents = list(islice(readable_documents(target, generate(seed, split)), num_documents))
    done = _Counter(num_documents, progress)
    return read_documents(target, documents, positions_per_document, done.add)


def extract_storyworld(
    target: Target,
    out_dir: str | Path,
    seed: int,
    split: Split,
    num_documents: int,
    positions_per_document: int = 5,
    shard_rows: int = 20_000,
    progress: Progress | None = None,
    about: tuple[str, ...] = (),
) -> Manifest:
    """Read documents into shards of about `shard_rows` rows; returns the manifest.

    Shards that are there and whole are kept, so a killed run goes on where it stopped.

    Args:
        about: read only places where a fact of one of these kinds holds, and pass over documents
            without one; empty: any place. What is rare in the world is gathered so.

    Raises:
        ResumeError: `out_dir` holds shards of another seed, split, size or target, or another
            process is writing there.
    """
    directory = Path(out_dir)
    plan = ExtractionPlan(
        seed=seed,
        split=split,
        num_documents=num_documents,
        positions_per_document=positions_per_document,
        shard_rows=shard_rows,
        layer=target.site.layer,
        d_model=target.d_model,
        target_sha256=target_sha256(target),
        about=about,
    )
    finished = finished_set(directory, plan)
    if finished is not None:
        return finished
    with locked(directory):
        check_same_plan(directory, plan)
        records = list(_shards(target, directory, plan, _Counter(num_documents, progress)))
        return write_manifest(directory, plan, records)


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


def _shards(
    target: Target, directory: Path, plan: ExtractionPlan, counter: _Counter
) -> Iterator[ShardRecord]:
    per_shard = max(1, plan.shard_rows // plan.positions_per_document)
    next_index = 0
    for number, start in enumerate(range(0, plan.num_documents, per_shard)):
        count = min(per_shard, plan.num_documents - start)
        record = read_record(directory, number)
        if record is None or not is_whole(directory, record):
            record = _make_shard(target, directory, plan, number, next_index, count, counter)
        else:
            counter.add(count)
        next_index = record.next_index
        yield record


def _make_shard(
    target: Target,
    directory: Path,
    plan: ExtractionPlan,
    number: int,
    first_index: int,
    num_documents: int,
    counter: _Counter,
) -> ShardRecord:
    made = readable_documents(target, generate(plan.seed, plan.split, first_index))
    with_places = (each for each in made if readable_positions(each, about=plan.about))
    documents = list(islice(with_places, num_documents))
    found = read_documents(
        target, documents, plan.positions_per_document, counter.add, about=plan.about
    )
    return write_shard(
        directory,
        number,
        found.vectors_ND,
        found.rows,
        next_index=documents[-1].index + 1,
        config_hash=plan.hash,
    )


def _row(encoded: EncodedDocument, position: int, layer: int) -> dict[str, str | int]:
    char_end = encoded.offsets[position][1]
    seed = int(encoded.document.id.partition("-")[0])
    return {
        "doc_id": encoded.document.id,
        "seed": seed,
        "index": encoded.index,
        "position": position,
        "char_end": char_end,
        "token_id": encoded.ids[position],
        "n_raw_tokens": position + 1,
        "activation_layer": layer,
        "text": encoded.document.text[:char_end],
    }
