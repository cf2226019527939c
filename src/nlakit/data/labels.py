"""Label sets: the explanation a teacher writes for every row of a set of shards.

    plan.json                  what decides the labels; a set of another teacher or rows is refused
    labels-00000.parquet       one row of `LABEL_SCHEMA` a row of the shard of that number
    labels-00000.json          written when that is whole, with its checksum
    labels.json                written last: without it the set is not finished

A killed run goes on with the parts that are there and whole. A label is kept under the key of what
its teacher was shown: rows that show the same are not asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.errors import CheckpointError, ResumeError
from nlakit.models.guesses import Guess

from .locks import locked
from .shards import (
    Manifest,
    ShardReader,
    check_sha256,
    file_sha256,
    read_model,
    write_table,
)

SET_NAME, PLAN_NAME = "labels.json", "plan.json"

LABEL_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("explanation", pa.string()),
        ("refusal", pa.string()),
        ("claims", pa.list_(pa.struct([("kind", pa.string()), ("value", pa.string())]))),
    ]
)


class Turn(NamedTuple):
    """A message of a chat as far as it has been said: characters [start, end) of the text."""

    role: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Place:
    """What a teacher may see of a row: the text up to the position, never the vector.

    Attributes:
        doc_id: of the document; a corpus may name the kind of text before a hyphen.
        turns: of a chat, the messages so far; none in plain text.
        guesses: what the target expects next, the likeliest first; none where nobody asked it.
    """

    text: str
    seed: int
    index: int
    char_end: int
    doc_id: str = ""
    turns: tuple[Turn, ...] = ()
    guesses: tuple[Guess, ...] = ()


@dataclass(frozen=True, slots=True)
class TeacherLabel:
    """What a teacher wrote. A refusal has a reason and no explanation; such rows are dropped."""

    explanation: str | None
    claims: tuple[tuple[str, str], ...] = ()
    refusal: str | None = None


class Teacher(Protocol):
    """Writes explanations of texts."""

    name: str

    def key(self, place: Place) -> str:
        """Identifies all that decides the label: equal keys mean equal labels."""
        ...

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position."""
        ...


@runtime_checkable
class BatchTeacher(Protocol):
    """A teacher that is asked about many places at once, such as one behind a server."""

    def label_many(self, places: Sequence[Place]) -> list[TeacherLabel]:
        """The labels of the positions, in their order."""
        ...


class LabelPlan(FrozenModel):
    """What decides a label set."""

    teacher: str
    activations_hash: str
    """`config_hash` of the shards that the rows belong to."""


class LabelPart(FrozenModel):
    """A finished file of labels."""

    number: int
    num_rows: int
    sha256: str


class LabelSet(FrozenModel):
    """A finished label set."""

    teacher: str
    num_rows: int
    num_refused: int
    refusals: dict[str, int] = {}
    """Rows without a label by the reason."""
    activations_hash: str
    """`config_hash` of the shards that the rows belong to."""
    parts: tuple[LabelPart, ...] = ()
    """None in sets that were written before parts had checksums."""


def write_labels(
    shards_dir: str | Path,
    teacher: Teacher,
    out: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> LabelSet:
    """Label every row of `shards_dir` into the directory `out`; parts that are whole are kept.

    Raises:
        CheckpointError: a shard is corrupt.
        ResumeError: `out` holds labels of another teacher or of other activations, or another
            process is writing there.
    """
    reader, directory = ShardReader(shards_dir), Path(out)
    plan = LabelPlan(teacher=teacher.name, activations_hash=reader.manifest.config_hash)
    finished = _finished_set(directory, plan, reader.manifest)
    if finished is not None:
        if progress is not None:
            progress(len(reader), len(reader))
        return finished
    with locked(directory):
        _check_same_plan(directory, plan)
        write_text_atomic(directory / PLAN_NAME, plan.model_dump_json(indent=2))
        tables = {number: table for number, table in _whole_parts(directory, reader.manifest)}
        known = dict(label for table in tables.values() for label in _labels_in(table))
        done, refusals = 0, Counter[str]()
        for record in reader.manifest.shards:
            table = tables.get(record.number)
            if table is None:
                _, rows = reader.shard(record)
                table = _label_rows(rows, teacher, known, first_row=done)
                _write_part(directory, record.number, table)
            done += table.num_rows
            refusals.update(_refusals(table))
            if progress is not None:
                progress(done, len(reader))
        return _finish_set(directory, teacher.name, done, refusals, reader.manifest)


def _finished_set(directory: Path, plan: LabelPlan, manifest: Manifest) -> LabelSet | None:
    """The set that is there, where it is of this plan and as it was written."""
    if not (directory / SET_NAME).is_file() or _plan_in(directory) != plan:
        return None
    found = read_model(LabelSet, directory / SET_NAME)
    numbers = [number for number, _ in _whole_parts(directory, manifest)]
    return found if numbers == [record.number for record in manifest.shards] else None


def _check_same_plan(directory: Path, plan: LabelPlan) -> None:
    found = _plan_in(directory)
    if found is None or found == plan:
        return
    rows = (
        "of these activations"
        if found.activations_hash == plan.activations_hash
        else (
            f"of other activations ({found.activations_hash[:12]}…, asked for "
            f"{plan.activations_hash[:12]}…)"
        )
    )
    raise ResumeError(
        f"Asked to write labels of {plan.teacher!r} into {directory}, which holds labels of "
        f"{found.teacher!r} {rows}. Give another directory, or remove that one."
    )


def _plan_in(directory: Path) -> LabelPlan | None:
    """What decided the labels that are there; None where there are none."""
    if (directory / PLAN_NAME).is_file():
        return read_model(LabelPlan, directory / PLAN_NAME)
    if (directory / SET_NAME).is_file():
        found = read_model(LabelSet, directory / SET_NAME)
        return LabelPlan(teacher=found.teacher, activations_hash=found.activations_hash)
    stray = next(iter(directory.glob("labels-*.parquet")), None)
    if stray is not None:
        raise ResumeError(
            f"{stray} is there without a {PLAN_NAME} that says whose labels these are. Give "
            "another directory, or remove it; paid answers are kept in the teacher's cache."
        )
    return None


def label_files(path: str | Path, manifest: Manifest) -> list[Path]:
    """The files of a finished set, one a shard of `manifest`, each as it was written.

    Raises:
        CheckpointError: the set is missing, unfinished, or belongs to other activations.
    """
    directory = Path(path)
    if not (directory / SET_NAME).exists():
        raise CheckpointError(f"{directory} has no {SET_NAME}: labelling did not finish. Run it.")
    found = read_model(LabelSet, directory / SET_NAME)
    parts = [_part(directory, record.number) for record in manifest.shards]
    for part in found.parts:
        check_sha256(_part(directory, part.number), part.sha256, "Label these rows again.")
    if found.activations_hash != manifest.config_hash or not all(p.exists() for p in parts):
        raise CheckpointError(
            f"{directory} labels other activations than these ({found.activations_hash[:12]}…, "
            f"asked for {manifest.config_hash[:12]}…). Label these rows again."
        )
    return parts


def read_labels(path: str | Path, manifest: Manifest) -> pa.Table:
    """All labels of a finished set, in the order of the rows of `manifest`. Raises as `label_files`
    does."""
    return pa.concat_tables([_read_table(part) for part in label_files(path, manifest)])


def read_explanations(part: Path) -> list[str | None]:
    """The explanation of each row of a file, None where the teacher refused."""
    return _read_table(part, ["explanation"]).column("explanation").to_pylist()


def write_label_set(
    out: str | Path, labels: pa.Table, teacher: str, manifest: Manifest
) -> LabelSet:
    """Write labels of all rows of `manifest`, such as `read_labels` gave, changed, as a new set."""
    directory, first = Path(out), 0
    for record in manifest.shards:
        _write_part(directory, record.number, labels.slice(first, record.num_rows))
        first += record.num_rows
    refusals = Counter(_refusals(labels))
    return _finish_set(directory, teacher, labels.num_rows, refusals, manifest)


def _finish_set(
    directory: Path, teacher: str, num_rows: int, refusals: Counter[str], manifest: Manifest
) -> LabelSet:
    found = LabelSet(
        teacher=teacher,
        num_rows=num_rows,
        num_refused=refusals.total(),
        refusals=dict(refusals),
        activations_hash=manifest.config_hash,
        parts=tuple(
            read_model(LabelPart, _record(directory, record.number)) for record in manifest.shards
        ),
    )
    write_text_atomic(directory / SET_NAME, found.model_dump_json(indent=2))
    return found


def places_of(rows: pa.Table) -> Iterator[Place]:
    """What a teacher may see of each row of a row table."""
    names = ("text", "seed", "index", "char_end", "doc_id", "turns", "next_tokens")
    # Rows that were extracted before a column was there have none of it.
    there = set(rows.column_names)
    columns = (
        rows.column(name).to_pylist() if name in there else [None] * rows.num_rows for name in names
    )
    for text, seed, index, char_end, doc_id, turns, guesses in zip(*columns, strict=True):
        yield Place(
            text,
            seed,
            index,
            char_end,
            doc_id or "",
            tuple(Turn(**each) for each in turns or ()),
            tuple(Guess(**each) for each in guesses or ()),
        )


def _label_rows(
    rows: pa.Table, teacher: Teacher, known: dict[str, TeacherLabel], first_row: int
) -> pa.Table:
    places = list(places_of(rows))
    keys = [f"{teacher.name}/{teacher.key(place)}" for place in places]
    _ask(teacher, dict(zip(keys, places, strict=True)), known)
    made = []
    for row, key in enumerate(keys, start=first_row):
        label = known[key]
        claims = [{"kind": kind, "value": value} for kind, value in label.claims]
        made.append(
            {
                "row": row,
                "key": key,
                "explanation": label.explanation,
                "refusal": label.refusal,
                "claims": claims,
            }
        )
    return pa.Table.from_pylist(made, schema=LABEL_SCHEMA)


def _ask(teacher: Teacher, places: dict[str, Place], known: dict[str, TeacherLabel]) -> None:
    """Add to `known` the labels of the places whose key is not in it."""
    new = {key: place for key, place in places.items() if key not in known}
    known.update(zip(new, ask(teacher, list(new.values())), strict=True))


def ask(teacher: Teacher, places: Sequence[Place]) -> list[TeacherLabel]:
    """The labels of the positions, all at once where the teacher takes them so."""
    if isinstance(teacher, BatchTeacher):
        return teacher.label_many(places)
    return [teacher.label(place) for place in places]


def _refusals(table: pa.Table) -> list[str]:
    columns = (table.column(name).to_pylist() for name in ("explanation", "refusal"))
    return [reason or "no reason" for text, reason in zip(*columns, strict=True) if text is None]


def _part(directory: Path, number: int) -> Path:
    return directory / f"labels-{number:05d}.parquet"


def _record(directory: Path, number: int) -> Path:
    return _part(directory, number).with_suffix(".json")


def _write_part(directory: Path, number: int, table: pa.Table) -> None:
    """Write the labels of a shard, their record last."""
    path = _part(directory, number)
    write_table(path, table)
    part = LabelPart(number=number, num_rows=table.num_rows, sha256=file_sha256(path))
    write_text_atomic(_record(directory, number), part.model_dump_json(indent=2))


def _whole_parts(directory: Path, manifest: Manifest) -> Iterator[tuple[int, pa.Table]]:
    """The parts of an earlier run that are there and as they were written."""
    for record in manifest.shards:
        path, number = _part(directory, record.number), record.number
        if not path.is_file() or not _record(directory, number).is_file():
            continue
        part = read_model(LabelPart, _record(directory, number))
        expected = LabelPart(number=number, num_rows=record.num_rows, sha256=file_sha256(path))
        if part == expected:
            yield number, _read_table(path)


def _labels_in(table: pa.Table) -> Iterator[tuple[str, TeacherLabel]]:
    for row in table.to_pylist():
        claims = tuple((claim["kind"], claim["value"]) for claim in row["claims"])
        yield row["key"], TeacherLabel(row["explanation"], claims, row["refusal"])


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, schema=LABEL_SCHEMA, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise CheckpointError(f"{path} is not a label file: {error}. Remove it.") from error
