"""A corpus to activations, for any target, in shards that a killed run continues."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from nlakit.errors import InputError
from nlakit.models.target import Encoded, Target
from nlakit.storyworld.document import Split

from .corpora import Corpus, CorpusDocument
from .extraction import (
    ActivationRows,
    BasePlan,
    Progress,
    check_same_plan,
    target_sha256,
    write_manifest,
)
from .shards import (
    ROW_SCHEMA,
    Manifest,
    ShardRecord,
    is_whole,
    read_record,
    write_shard,
)

CHARACTERS_PER_TOKEN = 16
"""A text is cut at so many characters a token before it is encoded: seldom has one more."""


class CorpusPlan(BasePlan):
    """What decides a set of activations of a corpus."""

    corpus_sha256: str
    split: Split
    minimum_position: int
    max_tokens: int
    first_index: int = 0


class Readable(NamedTuple):
    """A document of the corpus as the target reads it, cut at the plan's `max_tokens`."""

    document: CorpusDocument
    encoded: Encoded


def extract_corpus(
    target: Target,
    corpus: Corpus,
    out_dir: str | Path,
    *,
    split: Split = "train",
    num_documents: int,
    positions_per_document: int = 5,
    minimum_position: int = 50,
    max_tokens: int = 1024,
    shard_rows: int = 20_000,
    first_index: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Read up to `num_documents` documents, from number `first_index` on, into shards.

    Returns the manifest; its last shard says where the documents behind these start.

    Documents with no token at or behind `minimum_position` are passed over. Places are a function
    of the document's id. Shards that are there and whole are kept.

    Raises:
        InputError: the corpus cannot be read, or holds no document that is long enough.
        ResumeError: `out_dir` holds shards of another corpus, split, size or target.
    """
    directory = Path(out_dir)
    plan = CorpusPlan(
        corpus_sha256=corpus.fingerprint,
        split=split,
        num_documents=num_documents,
        positions_per_document=positions_per_document,
        minimum_position=minimum_position,
        max_tokens=min(max_tokens, target.max_tokens),
        shard_rows=shard_rows,
        first_index=first_index,
        layer=target.site.layer,
        d_model=target.d_model,
        target_sha256=target_sha256(target),
    )
    check_same_plan(directory, plan)
    records = list(_shards(target, corpus, directory, plan, progress))
    if not records:
        raise InputError(
            f"{corpus.source} has no {split} document with a token at {minimum_position} or later."
        )
    return write_manifest(directory, plan, records)


def _shards(
    target: Target, corpus: Corpus, directory: Path, plan: CorpusPlan, progress: Progress | None
) -> Iterator[ShardRecord]:
    per_shard = max(1, plan.shard_rows // plan.positions_per_document)
    next_index = plan.first_index
    for number, start in enumerate(range(0, plan.num_documents, per_shard)):
        count = min(per_shard, plan.num_documents - start)
        record = read_record(directory, number)
        if record is None or not is_whole(directory, record):
            made = _readable(target, corpus, plan, next_index)
            documents = list(islice(made, count))
            if not documents:
                return
            found = _read(target, documents, plan)
            record = write_shard(
                directory,
                number,
                found.vectors_ND,
                found.rows,
                next_index=documents[-1].document.index + 1,
                config_hash=plan.hash,
            )
        next_index = record.next_index
        if progress is not None:
            progress(start + record.num_documents, plan.num_documents)
        yield record


def _readable(
    target: Target, corpus: Corpus, plan: CorpusPlan, first_index: int
) -> Iterator[Readable]:
    for document in corpus.documents(plan.split, first_index):
        encoded = encode_head(target, document, plan.max_tokens)
        if encoded is not None and len(encoded.ids) > plan.minimum_position:
            yield Readable(document, encoded)


def encode_head(target: Target, document: CorpusDocument, max_tokens: int) -> Encoded | None:
    """The first `max_tokens` tokens of a document; None for a chat whose first message alone is
    longer than the target's context.

    Raises:
        InputError: a chat, and the target's tokenizer has no chat template.
    """
    if document.text is None and not target.tokenizer.chat_template:
        raise InputError(
            f"Document {document.id} is a chat, and the target has no chat template. Give texts."
        )
    size = len(document.messages) if document.text is None else max_tokens * CHARACTERS_PER_TOKEN
    while size:
        try:
            if document.text is None:
                encoded = target.encode_messages([dict(m) for m in document.messages[:size]])
            else:
                encoded = target.encode(document.text[:size])
        except InputError:
            # Past the context: one message fewer, or half the characters.
            size = size - 1 if document.text is None else min(size, len(document.text)) // 2
            continue
        end = max_tokens
        return Encoded(encoded.ids[:end], encoded.offsets[:end], encoded.tokens[:end], encoded.text)
    return None


def _read(target: Target, documents: list[Readable], plan: CorpusPlan) -> ActivationRows:
    places = [_places(each, plan) for each in documents]
    vectors = target.activations([each.encoded.ids for each in documents], places)
    rows = [
        _row(each, position, plan.layer)
        for each, positions in zip(documents, places, strict=True)
        for position in positions
    ]
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    return ActivationRows(torch.cat(vectors).float().cpu(), table)


def _places(each: Readable, plan: CorpusPlan) -> list[int]:
    usable = range(plan.minimum_position, len(each.encoded.ids))
    rng = random.Random(f"{each.document.id}/places")
    return sorted(rng.sample(usable, min(plan.positions_per_document, len(usable))))


def _row(each: Readable, position: int, layer: int) -> dict[str, str | int]:
    char_end = each.encoded.offsets[position][1]
    return {
        "doc_id": each.document.id,
        "seed": 0,
        "index": each.document.index,
        "position": position,
        "char_end": char_end,
        "token_id": each.encoded.ids[position],
        "n_raw_tokens": position + 1,
        "activation_layer": layer,
        "text": each.encoded.text[:char_end],
    }
