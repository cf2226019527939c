"""Reads many transcripts into a project: tokens, positions, activations, explanations, index.

Work goes in batches of transcripts. A batch's plan is on disk before anything is read, so a scan
that was killed finishes the batch it was at, whatever it is asked for next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.data.bulk import (
    BulkPlan,
    VectorSource,
    explain_vectors,
    explanation_path,
)
from nlakit.data.corpora import Corpus, CorpusDocument, Refused
from nlakit.data.extraction import BasePlan, write_manifest
from nlakit.data.shards import ROW_SCHEMA, read_model, write_shard, write_table
from nlakit.engines.base import Sampling
from nlakit.errors import InputError, UnreadableError
from nlakit.models.chat import Chat, ChatOptions
from nlakit.models.chat_spans import NO_SPAN
from nlakit.models.encoded import Encoded
from nlakit.models.overflow import overflow_message
from nlakit.models.target import Target
from nlakit.pair.bulk import BulkReader
from nlakit.pair.pair import Pair

from .positions import Selection, Sheet, choose
from .project import Project

PLAN_NAME = "plan.json"
TRANSCRIPTS_NAME = "transcripts.parquet"
BATCH_POSITIONS = 2048
SHARD_ROWS = 128
"""Vectors of which the explanations are written together: a kill loses no more."""
CHARACTERS_PER_TOKEN = 16
REASONS = 5
PROBE = 8

TRANSCRIPT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("starts", pa.list_(pa.int32())),
        ("ends", pa.list_(pa.int32())),
        ("roles", pa.list_(pa.string())),
        ("sections", pa.list_(pa.string())),
        ("message_indices", pa.list_(pa.int32())),
        ("positions", pa.list_(pa.int32())),
        ("metadata", pa.string()),
        ("notes", pa.string()),
    ]
)
READINGS_SCHEMA = pa.schema(
    [
        ("transcript", pa.string()),
        ("position", pa.int32()),
        ("sample", pa.int32()),
        ("token", pa.string()),
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
        ("role", pa.string()),
        ("section", pa.string()),
        ("message_index", pa.int32()),
        ("explanation", pa.string()),
        ("closed", pa.bool_()),
        ("fidelity", pa.float32()),
        ("cosine", pa.float32()),
        ("mse", pa.float32()),
        ("confidence", pa.float32()),
        ("batch", pa.int32()),
        ("row", pa.int32()),
    ]
)

Tell = Callable[[str], None]
Progress = Callable[[int, int], None]


class ScanPlan(FrozenModel):
    """What a batch is to read; its transcripts lie beside it."""

    selection: Selection
    num_transcripts: int
    num_positions: int
    transcripts_sha256: str


class VectorPlan(BasePlan):
    """What decides the activations of a batch (`data.extraction`)."""

    transcripts_sha256: str


class ScanResult(NamedTuple):
    """What a scan did.

    Attributes:
        transcripts, positions: read by this scan.
        known: transcripts that had been read before, at all positions asked for.
        refused: that the target cannot read, with the first reasons.
        truncated: longer than the target's context, of which the beginning was read.
        left: positions that the budget left unread.
        seconds: it took, of which `reading` were spent on explanations.
    """

    transcripts: int
    positions: int
    known: int
    refused: int
    reasons: tuple[str, ...]
    truncated: int
    left: int
    seconds: float
    reading: float


class Estimate(NamedTuple):
    """What a scan will read, and how long that takes by `PROBE` explanations that were timed."""

    transcripts: int
    positions: int
    seconds: float


@dataclass
class Reading:
    """One transcript that is to be read."""

    id: str
    document: CorpusDocument
    sheet: Sheet
    positions: list[int]
    notes: list[str]


@dataclass
class Scanner:
    """Fills a project.

    Attributes:
        budget: positions that this scan may read; None: all.
        confidence: see `BulkReader`.
    """

    project: Project
    pair: Pair
    sampling: Sampling
    budget: int | None = None
    confidence: bool = False
    batch_positions: int = BATCH_POSITIONS
    tell: Tell = lambda words: None
    progress: Progress | None = None
    known: int = 0
    truncated: int = 0
    left: int = 0
    read: tuple[int, int] = (0, 0)
    refusals: list[str] = field(default_factory=list)
    reading: float = 0.0
    planned: int = 0
    """Positions of the batch that is being put together."""

    def scan(self, sources: Sequence[str], selection: Selection) -> ScanResult:
        """Read what is new in some files or folders.

        Raises:
            InputError: nothing can be read, a row of no known format, or a bad selection.
        """
        started = time.monotonic()
        selection = selection.or_default()
        self._finish_pending()
        batch: list[Reading] = []
        for each in self._new(sources, selection):
            batch.append(each)
            if sum(len(one.positions) for one in batch) >= self.batch_positions:
                self._read_batch(batch, selection)
                batch = []
        if batch:
            self._read_batch(batch, selection)
        transcripts, positions = self.read
        if not (transcripts or self.known or self.left):
            why = f" The first refusal: {self.refusals[0]}" if self.refusals else ""
            raise InputError(f"{', '.join(sources)}: no transcript can be read.{why}")
        return ScanResult(
            transcripts=transcripts,
            positions=positions,
            known=self.known,
            refused=len(self.refusals),
            reasons=tuple(self.refusals[:REASONS]),
            truncated=self.truncated,
            left=self.left,
            seconds=time.monotonic() - started,
            reading=self.reading,
        )

    def estimate(self, sources: Sequence[str], selection: Selection) -> Estimate:
        """What `scan` will do. Encodes every transcript, and explains a few positions."""
        counter = replace(self, refusals=[], known=0, truncated=0, left=0, planned=0)
        transcripts = positions = 0
        first: Reading | None = None
        for each in counter._new(sources, selection.or_default()):
            first = first or each
            transcripts, positions = transcripts + 1, positions + len(each.positions)
        return Estimate(
            transcripts, positions, 0.0 if first is None else self._timed(first, positions)
        )

    def _timed(self, reading: Reading, positions: int) -> float:
        some = reading.positions[:PROBE]
        (vectors_PD,) = self.pair.target.activations([reading.sheet.encoded.ids], [some])
        reader = BulkReader(self.pair, self.sampling, self.confidence)
        started = time.monotonic()
        reader.describe_rows(vectors_PD.float().cpu(), 0)
        return (time.monotonic() - started) / len(some) * positions

    # -- what is to be read ------------------------------------------------------------------------
    def _new(self, sources: Sequence[str], selection: Selection) -> Iterator[Reading]:
        """Transcripts with positions that are not read yet, as far as the budget goes."""
        seen: set[str] = set()
        with self.project.index() as index:
            for source, document in self._documents(sources):
                made = self._prepared(source, document, selection)
                if made is None or made.id in seen:
                    continue
                seen.add(made.id)
                done = index.positions_read(made.id)
                made.positions = [p for p in made.positions if p not in done]
                if not made.positions:
                    self.known += 1
                elif self._within_budget(made):
                    yield made

    def _within_budget(self, made: Reading) -> bool:
        if self.budget is None:
            return True
        room = max(0, self.budget - self.read[1] - self.planned)
        self.left += max(0, len(made.positions) - room)
        made.positions = made.positions[:room]
        self.planned += len(made.positions)
        return bool(made.positions)

    def _documents(self, sources: Sequence[str]) -> Iterator[tuple[str, CorpusDocument]]:
        for source in sources:
            for made in Corpus(source).rows():
                if isinstance(made, CorpusDocument):
                    yield source, made
                elif isinstance(made, Refused):
                    self.refusals.append(made.reason)

    def _prepared(
        self, source: str, document: CorpusDocument, selection: Selection
    ) -> Reading | None:
        identity = transcript_id(document)
        try:
            sheet, notes = encode(self.pair.target, document)
        except UnreadableError as error:
            self.refusals.append(f"{document.where}: {error}")
            return None
        cut = len(sheet.encoded.ids) - self.pair.target.max_tokens
        if cut > 0:
            self.truncated += 1
            notes = [*notes, f"the last {cut} tokens are past the target's context"]
            sheet = head(sheet, self.pair.target.max_tokens)
        positions = choose(sheet, selection, identity)
        if not positions:
            return None
        return Reading(identity, document, sheet, positions, [*document.notes, *notes])

    # -- batches -----------------------------------------------------------------------------------
    def _read_batch(self, batch: Sequence[Reading], selection: Selection) -> None:
        number = self._next_number()
        directory = self.project.batch(number)
        if directory.exists():
            shutil.rmtree(directory)  # killed before its plan was whole
        table = _transcript_table(batch)
        path = directory / TRANSCRIPTS_NAME
        directory.mkdir(parents=True)
        write_table(path, table)
        plan = ScanPlan(
            selection=selection,
            num_transcripts=len(batch),
            num_positions=sum(len(each.positions) for each in batch),
            transcripts_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        write_text_atomic(directory / PLAN_NAME, plan.model_dump_json(indent=2))
        self.planned = 0
        self._finish(number)

    def _next_number(self) -> int:
        with self.project.index() as index:
            return max(index.batches(), default=-1) + 1

    def _finish_pending(self) -> None:
        """Finish the batch that a killed scan was at."""
        number = self._next_number()
        if (self.project.batch(number) / PLAN_NAME).is_file():
            self.tell("Finishing what an earlier scan began.")
            self._finish(number)

    def _finish(self, number: int) -> None:
        directory = self.project.batch(number)
        plan = read_model(ScanPlan, directory / PLAN_NAME)
        rows = pq.read_table(directory / TRANSCRIPTS_NAME).to_pylist()
        self._extract(directory, plan, rows)
        self._explain(directory, plan)
        readings = _readings(directory, number, rows)
        table = pa.Table.from_pylist(readings, schema=READINGS_SCHEMA)
        write_table(self.project.readings(number), table)
        with self.project.index() as index:
            index.add_batch(number, [_summary(row) for row in rows], readings)
        transcripts, positions = self.read
        self.read = (transcripts + plan.num_transcripts, positions + plan.num_positions)

    def _extract(self, directory: Path, plan: ScanPlan, rows: Sequence[dict[str, Any]]) -> None:
        out = directory / "activations"
        if (out / "manifest.json").is_file():
            return
        ids, positions = [row["ids"] for row in rows], [row["positions"] for row in rows]
        # One that is not finite is passed over by `explain_vectors`: it must not end a scan.
        vectors = self.pair.target.activations(ids, positions, allow_overflow=True)
        card = self.project.card
        shard_plan = VectorPlan(
            num_documents=plan.num_transcripts,
            positions_per_document=max(len(row["positions"]) for row in rows),
            shard_rows=plan.num_positions,
            layer=card.layer,
            d_model=card.d_model,
            target_sha256=card.target_sha256,
            transcripts_sha256=plan.transcripts_sha256,
        )
        places = [_place(row, p, card.layer) for row in rows for p in row["positions"]]
        record = write_shard(
            out,
            0,
            torch.cat(vectors).float().cpu(),
            pa.Table.from_pylist(places, schema=ROW_SCHEMA),
            next_index=0,
            config_hash=shard_plan.hash,
        )
        write_manifest(out, shard_plan, [record])

    def _explain(self, directory: Path, plan: ScanPlan) -> None:
        card, source = self.project.card, VectorSource(directory / "activations")
        bulk = BulkPlan(
            nla=card.nla,
            nla_sha256=card.nla_sha256,
            vectors_sha256=source.sha256(),
            num_rows=source.num_rows,
            d_model=source.d_model,
            shard_rows=SHARD_ROWS,
            samples=card.samples,
            temperature=card.temperature,
            max_new_tokens=card.max_new_tokens,
            seed=card.seed,
            dtype=card.dtype,
        )
        reader = BulkReader(self.pair, self.sampling, self.confidence)
        started, before = time.monotonic(), self.read[1]

        def progress(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(before + done, before + total)

        out = directory / "explanations"
        manifest = explain_vectors(lambda: reader, source, out, bulk, progress=progress)
        if manifest.num_unreadable:
            what = f"{manifest.num_unreadable} activations"
            self.refusals.append(overflow_message(what, self.pair.target.model.dtype))
        self.reading += time.monotonic() - started


# -- transcripts -----------------------------------------------------------------------------------
def transcript_id(document: CorpusDocument) -> str:
    """Of what it says: the same transcript in two files is one."""
    content = json.dumps([document.content, list(document.tools)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def encode(target: Target, document: CorpusDocument) -> tuple[Sheet, list[str]]:
    """A transcript as the target reads it, and what is to be told of that.

    It may be longer than the target's context.

    Raises:
        UnreadableError: the chat template refuses it.
        InputError: a chat, and the target has no chat template.
    """
    if document.text is not None:
        encoded = _text_head(target, document.text)
        return Sheet(encoded, [NO_SPAN] * len(encoded.ids)), []
    chat = Chat(target.tokenizer, document.messages, ChatOptions(tools=document.tools))
    return Sheet(chat.encoded, chat.spans), list(chat.notices)


def _text_head(target: Target, text: str) -> Encoded:
    size = min(len(text), target.max_tokens * CHARACTERS_PER_TOKEN)
    while True:
        try:
            return target.encode(text[:size])
        except UnreadableError:
            raise
        except InputError:
            if size < 2:
                raise
            size //= 2  # longer than the context


def head(sheet: Sheet, size: int) -> Sheet:
    """The first tokens of a transcript."""
    encoded = sheet.encoded
    parts = (encoded.ids[:size], encoded.offsets[:size], encoded.tokens[:size], encoded.text)
    return Sheet(Encoded(*parts), list(sheet.spans[:size]))


def _transcript_table(batch: Sequence[Reading]) -> pa.Table:
    rows = [
        {
            "id": each.id,
            "name": each.document.id,
            "source": each.document.where,
            "text": each.sheet.encoded.text,
            "ids": each.sheet.encoded.ids,
            "starts": [start for start, _ in each.sheet.encoded.offsets],
            "ends": [end for _, end in each.sheet.encoded.offsets],
            "roles": [span.role for span in each.sheet.spans],
            "sections": [span.section for span in each.sheet.spans],
            "message_indices": [span.message_index for span in each.sheet.spans],
            "positions": each.positions,
            "metadata": json.dumps(dict(each.document.metadata), default=str),
            "notes": json.dumps(each.notes),
        }
        for each in batch
    ]
    return pa.Table.from_pylist(rows, schema=TRANSCRIPT_SCHEMA)


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "name", "source", "text", "metadata", "notes")
    return {**{name: row[name] for name in names}, "num_tokens": len(row["ids"])}


def _place(row: dict[str, Any], position: int, layer: int) -> dict[str, Any]:
    return {
        "doc_id": row["id"],
        "seed": 0,
        "index": 0,
        "position": position,
        "char_end": row["ends"][position],
        "token_id": row["ids"][position],
        "n_raw_tokens": position + 1,
        "activation_layer": layer,
        "text": row["text"][row["starts"][position] : row["ends"][position]],
    }


def _readings(directory: Path, number: int, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The readings of a batch, in the order of its vectors."""
    places = [(row, position) for row in rows for position in row["positions"]]
    found: list[dict[str, Any]] = []
    shard = 0
    while explanation_path(directory / "explanations", shard).is_file():
        found += pq.read_table(explanation_path(directory / "explanations", shard)).to_pylist()
        shard += 1
    made = []
    for each in found:
        if each["explanation"] is None:
            continue  # its activation is not finite
        row, position = places[each["row"]]
        start, end = row["starts"][position], row["ends"][position]
        made.append(
            {
                **{n: each[n] for n in ("sample", "explanation", "closed")},
                **{n: each[n] for n in ("fidelity", "cosine", "mse", "confidence")},
                "transcript": row["id"],
                "position": position,
                "token": row["text"][start:end],
                "char_start": start,
                "char_end": end,
                "role": row["roles"][position],
                "section": row["sections"][position],
                "message_index": row["message_indices"][position],
                "batch": number,
                "row": each["row"],
            }
        )
    return made
