"""A corpus to activations, for any target, in shards that a killed run continues."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from nlakit.errors import InputError, UnreadableError
from nlakit.models.chat import Chat, ChatOptions
from nlakit.models.guesses import Expected, Guess, activations_and_guesses
from nlakit.models.overflow import check_finite_in, overflow_message
from nlakit.models.target import Encoded, Target
from nlakit.split import Split
from nlakit.transcript import Message

from .corpora import Corpus, CorpusDocument, OnEmpty, OnRefused, Refused
from .extraction import (
    ActivationRows,
    BasePlan,
    Progress,
    check_same_plan,
    finished_set,
    manifest_of,
    target_sha256,
    write_manifest,
)
from .labels import Turn
from .locks import locked
from .pools import Pool, wait_until_seen
from .shards import (
    ROW_SCHEMA,
    Manifest,
    ShardRecord,
    is_whole,
    read_record,
    shard_path,
    write_shard,
)

DOCUMENTS_PER_PASS = 256
NEXT_TOKENS = 10
"""Of the target's likeliest next tokens, for a teacher or a checker that speaks of them."""
CHARACTERS_PER_TOKEN = 16
"""A text is cut at so many characters a token before it is encoded: seldom has one more."""


class CorpusPlan(BasePlan):
    """What decides a set of activations of a corpus."""

    corpus_sha256: str
    split: Split
    minimum_position: int
    max_tokens: int
    first_index: int = 0
    next_tokens: int = 0


class Workers(NamedTuple):
    """Who reads the shards in place of this process.

    Attributes:
        pool: shares the shards out.
        load: makes the target in each worker: the one that the plan is for.
    """

    pool: Pool
    load: Callable[[], Target]


class ShardJob(NamedTuple):
    """A shard to be made: so many readable documents from a document number on."""

    number: int
    first_index: int
    num_documents: int


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
    next_tokens: int = 0,
    workers: Workers | None = None,
    progress: Progress | None = None,
    writes: bool = True,
) -> Manifest:
    """Read up to `num_documents` documents, from number `first_index` on, into shards.

    Returns the manifest; its last shard says where the documents behind these start.

    Documents with no token at or behind `minimum_position` are passed over, and so are rows without
    a text and rows that the target cannot read, which the manifest counts. Places are a function
    of the document's id. Shards that are there and whole are kept.

    Args:
        next_tokens: how many of the target's likeliest next tokens each row keeps, for a teacher
            that speaks of them; all blocks run then.
        workers: do the shards side by side, once this process has encoded the corpus to find where
            each starts. On several machines `out_dir` and the corpus must be absolute paths that
            are the same everywhere.
        writes: False: make the same shards and keep none, beside a process that writes them, with
            which this one shares the target (`models.sharding`). The manifest has no checksums.

    Raises:
        InputError: the corpus cannot be read, or holds no document that is long enough.
        ResumeError: `out_dir` holds shards of another corpus, split, size or target, or another
            process is writing there.
        UserError: as `Pool.run`.
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
        next_tokens=next_tokens,
        layer=target.site.layer,
        d_model=target.d_model,
        target_sha256=target_sha256(target),
    )
    finished = finished_set(directory, plan)
    if finished is not None:
        if progress is not None:
            progress(num_documents, num_documents)
        return finished
    with locked(directory) if writes else nullcontext():
        check_same_plan(directory, plan)
        if workers is not None:
            _share_out(workers, target, corpus, directory, plan, progress)
            progress = None
        records = list(_shards(target, corpus, directory, plan, progress, writes))
        if not records:
            raise InputError(_no_document(target, corpus, plan))
        return write_manifest(directory, plan, records) if writes else manifest_of(plan, records)


def _no_document(target: Target, corpus: Corpus, plan: CorpusPlan) -> str:
    refused: list[Refused] = []
    deque(_readable(target, corpus, plan, plan.first_index, None, refused.append), maxlen=0)
    why = f" {len(refused)} were refused; the first: {refused[0].reason}" if refused else ""
    return (
        f"{corpus.source} has no {plan.split} document with a token at {plan.minimum_position} or "
        f"later.{why}"
    )


def _shards(
    target: Target,
    corpus: Corpus,
    directory: Path,
    plan: CorpusPlan,
    progress: Progress | None,
    writes: bool,
) -> Iterator[ShardRecord]:
    """The records in order; what is missing is made here."""
    next_index, done = plan.first_index, 0
    for number, count in enumerate(_shard_sizes(plan)):
        record = _whole_record(directory, number) or _make_shard(
            target, ShardJob(number, next_index, count), corpus, directory, plan, writes
        )
        if record is None:
            return
        next_index = record.next_index
        done += record.num_documents
        if progress is not None:
            progress(done, plan.num_documents)
        yield record


def _share_out(
    workers: Workers,
    target: Target,
    corpus: Corpus,
    directory: Path,
    plan: CorpusPlan,
    progress: Progress | None,
) -> None:
    """Have the workers make every shard that is missing."""
    jobs = list(_missing(target, corpus, directory, plan))
    task = partial(_make_shard, corpus=corpus, directory=directory, plan=plan)
    done = plan.num_documents - sum(job.num_documents for job in jobs)
    for job in workers.pool.run(workers.load, task, jobs):
        whole = partial(_whole_record, directory, job.number)
        wait_until_seen(shard_path(directory, job.number, "json"), whole)
        done += job.num_documents
        if progress is not None:
            progress(done, plan.num_documents)


def _missing(
    target: Target, corpus: Corpus, directory: Path, plan: CorpusPlan
) -> Iterator[ShardJob]:
    """The shards that are not there. Where one starts depends on how long the documents are."""
    next_index = plan.first_index
    readable: Iterator[Readable] | None = None
    for number, count in enumerate(_shard_sizes(plan)):
        record = _whole_record(directory, number)
        if record is not None:
            next_index, readable = record.next_index, None
            continue
        readable = readable or _readable(target, corpus, plan, next_index)
        last = deque(islice(readable, count), maxlen=1)
        if not last:
            return
        yield ShardJob(number, next_index, count)
        next_index = last[0].document.index + 1


def _shard_sizes(plan: CorpusPlan) -> Iterator[int]:
    """How many documents each shard has; the last ones have fewer where the corpus ends."""
    per_shard = max(1, plan.shard_rows // plan.positions_per_document)
    for start in range(0, plan.num_documents, per_shard):
        yield min(per_shard, plan.num_documents - start)


def _whole_record(directory: Path, number: int) -> ShardRecord | None:
    record = read_record(directory, number)
    return record if record is not None and is_whole(directory, record) else None


def _make_shard(
    target: Target,
    job: ShardJob,
    corpus: Corpus,
    directory: Path,
    plan: CorpusPlan,
    writes: bool = True,
) -> ShardRecord | None:
    """Read one shard from the corpus. None, and no file, where the corpus has ended before it."""
    empty: list[int] = []
    refused: list[Refused] = []
    made = _readable(target, corpus, plan, job.first_index, empty.append, refused.append)
    documents = list(islice(made, job.num_documents))
    if not documents:
        return None
    places = [_places(each, plan) for each in documents]
    found = read_at(target, documents, places, plan.next_tokens, refused.append)
    return write_shard(
        directory if writes else None,
        job.number,
        found.vectors_ND,
        found.rows,
        next_index=documents[-1].document.index + 1,
        config_hash=plan.hash,
        num_empty=len(empty),
        refusals=[each.reason for each in refused],
    )


def _readable(
    target: Target,
    corpus: Corpus,
    plan: CorpusPlan,
    first_index: int,
    on_empty: OnEmpty | None = None,
    on_refused: OnRefused | None = None,
) -> Iterator[Readable]:
    tell = on_refused or pass_over
    for document in corpus.documents(plan.split, first_index, on_empty, tell):
        try:
            encoded = encode_head(target, document, plan.max_tokens)
        except UnreadableError as error:
            tell(Refused(document.index, f"{document.where}: {error}"))
            continue
        if len(encoded.ids) > plan.minimum_position:
            yield Readable(document, encoded)


def pass_over(refused: Refused) -> None:
    """For readers that need not count the rows that cannot be read."""


def head_or_none(target: Target, document: CorpusDocument, max_tokens: int) -> Encoded | None:
    """`encode_head`; None for a document that cannot be read."""
    try:
        return encode_head(target, document, max_tokens)
    except UnreadableError:
        return None


def encode_head(target: Target, document: CorpusDocument, max_tokens: int) -> Encoded:
    """The first `max_tokens` tokens of a document.

    Raises:
        InputError: a chat, and the target's tokenizer has no chat template.
        UnreadableError: the chat template refuses the messages.
    """
    if document.text is not None:
        return _head(_encode_text(target, document.text, max_tokens), max_tokens)
    if not target.tokenizer.chat_template:
        raise InputError(
            f"Document {document.id} is a chat, and the target has no chat template. Give texts."
        )
    chat = Chat(target.tokenizer, document.messages, ChatOptions(tools=document.tools))
    return _head(chat.encoded, max_tokens)


def _encode_text(target: Target, text: str, max_tokens: int) -> Encoded:
    size = min(len(text), max_tokens * CHARACTERS_PER_TOKEN)
    while True:
        try:
            return target.encode(text[:size])
        except UnreadableError:
            raise
        except InputError:
            if size < 2:
                raise
            size //= 2  # past the context


def _head(encoded: Encoded, end: int) -> Encoded:
    return Encoded(encoded.ids[:end], encoded.offsets[:end], encoded.tokens[:end], encoded.text)


def read_at(
    target: Target,
    documents: Sequence[Readable],
    places: Sequence[list[int]],
    next_tokens: int = 0,
    on_refused: OnRefused | None = None,
) -> ActivationRows:
    """Rows at the given token positions of each document.

    Args:
        next_tokens: how many of the target's likeliest next tokens each row keeps.
        on_refused: called for each document with an activation that is not finite, such as one past
            float16; those rows are left out. None: such a one raises.

    Raises:
        InputError: an activation that is not finite, and no `on_refused`; or no other one.
    """
    found: list[Expected] = []
    for start in range(0, len(documents), DOCUMENTS_PER_PASS):
        chunk = slice(start, start + DOCUMENTS_PER_PASS)
        ids = [each.encoded.ids for each in documents[chunk]]
        found += _expected(target, ids, list(places[chunk]), next_tokens)
    vectors_ND = torch.cat([each.vectors_PD for each in found]).float().cpu()
    finite = vectors_ND.isfinite().all(dim=-1)
    if on_refused is None or not finite.any():
        check_finite_in(vectors_ND, target.model.dtype, "The target's activations")
    rows = [
        (each.document, each.encoded, position, target.site.layer, guesses)
        for each, positions, expected in zip(documents, places, found, strict=True)
        for position, guesses in zip(positions, expected.guesses, strict=True)
    ]
    bad = {
        row[0].index: row[0] for row, good in zip(rows, finite.tolist(), strict=True) if not good
    }
    for document in bad.values():
        reason = overflow_message("The target's activations", target.model.dtype)
        (on_refused or pass_over)(Refused(document.index, f"{document.where}: {reason}"))
    kept = [row_of(*row) for row, good in zip(rows, finite.tolist(), strict=True) if good]
    return ActivationRows(vectors_ND[finite], pa.Table.from_pylist(kept, schema=ROW_SCHEMA))


def _expected(
    target: Target, ids: list[list[int]], places: list[list[int]], next_tokens: int
) -> list[Expected]:
    """Only the blocks up to the site run where nobody asks for next tokens."""
    if next_tokens:
        return activations_and_guesses(target, ids, places, next_tokens)
    vectors = target.activations(ids, places, allow_overflow=True)
    return [Expected(each, [()] * len(each)) for each in vectors]


def _places(each: Readable, plan: CorpusPlan) -> list[int]:
    usable = range(plan.minimum_position, len(each.encoded.ids))
    rng = random.Random(f"{each.document.id}/places")
    return sorted(rng.sample(usable, min(plan.positions_per_document, len(usable))))


def row_of(
    document: CorpusDocument,
    encoded: Encoded,
    position: int,
    layer: int,
    guesses: Sequence[Guess] = (),
) -> dict[str, Any]:
    """What the row table says of a position."""
    char_end = encoded.offsets[position][1]
    turns = turns_of(document.messages, encoded.text, char_end)
    return {
        "doc_id": document.id,
        "seed": 0,
        "index": document.index,
        "position": position,
        "char_end": char_end,
        "token_id": encoded.ids[position],
        "n_raw_tokens": position + 1,
        "activation_layer": layer,
        "text": encoded.text[:char_end],
        "turns": [each._asdict() for each in turns] or None,
        "next_tokens": [each._asdict() for each in guesses] or None,
    }


def turns_of(messages: Sequence[Message], text: str, char_end: int) -> list[Turn]:
    """The messages of a chat that have begun before a place in its rendered text.

    A message whose words the template changed is not found, and left out.
    """
    found, at = list[Turn](), 0
    for message in messages:
        content = message.text.strip()
        start = text.find(content, at) if content else -1
        if start >= 0:
            at = start + len(content)
            found.append(Turn(message.role, start, at))
    return [turn._replace(end=min(turn.end, char_end)) for turn in found if turn.start < char_end]
