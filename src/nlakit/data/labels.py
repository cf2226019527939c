"""Label sets: the explanation a teacher writes for every row of a set of shards.

One Parquet file a shard, written whole, so a killed run goes on. A label is kept under the key of
what its teacher was shown: rows of another layer or model that show the same are not asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.errors import CheckpointError

from .shards import Manifest, ShardReader, read_model, write_table

SET_NAME = "labels.json"

LABEL_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("explanation", pa.string()),
        ("refusal", pa.string()),
        ("claims", pa.list_(pa.struct([("kind", pa.string()), ("value", pa.string())]))),
    ]
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a teacher may see of a row: the text up to the position, never the vector."""

    text: str
    seed: int
    index: int
    char_end: int


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


class LabelSet(FrozenModel):
    """A finished label set."""

    teacher: str
    num_rows: int
    num_refused: int
    refusals: dict[str, int] = {}
    """Rows without a label by the reason."""
    activations_hash: str
    """`config_hash` of the shards that the rows belong to."""


def write_labels(
    shards_dir: str | Path,
    teacher: Teacher,
    out: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> LabelSet:
    """Label every row of `shards_dir` into the directory `out`.

    Raises:
        CheckpointError: a shard or an earlier label file is corrupt.
    """
    reader, directory = ShardReader(shards_dir), Path(out)
    known = {key: label for path in _parts(directory) for key, label in _read_part(path)}
    done, refusals = 0, Counter[str]()
    for record, (_, rows) in zip(reader.manifest.shards, reader, strict=True):
        table = _label_rows(rows, teacher, known, first_row=done)
        write_table(_part(directory, record.number), table)
        done += rows.num_rows
        refusals.update(_refusals(table))
        if progress is not None:
            progress(done, len(reader))
    return _finish_set(directory, teacher.name, done, refusals, reader.manifest)


def read_labels(path: str | Path, manifest: Manifest) -> pa.Table:
    """All labels of a finished set, in the order of the rows of `manifest`.

    Raises:
        CheckpointError: the set is missing, unfinished, or belongs to other activations.
    """
    directory = Path(path)
    if not (directory / SET_NAME).exists():
        raise CheckpointError(f"{directory} has no {SET_NAME}: labelling did not finish. Run it.")
    found = read_model(LabelSet, directory / SET_NAME)
    parts = [_part(directory, record.number) for record in manifest.shards]
    if found.activations_hash != manifest.config_hash or not all(p.exists() for p in parts):
        raise CheckpointError(
            f"{directory} labels other activations than these ({found.activations_hash[:12]}…, "
            f"asked for {manifest.config_hash[:12]}…). Label these rows again."
        )
    return pa.concat_tables([_read_table(part) for part in parts])


def write_label_set(
    out: str | Path, labels: pa.Table, teacher: str, manifest: Manifest
) -> LabelSet:
    """Write labels of all rows of `manifest`, such as `read_labels` gave, changed, as a new set."""
    directory, first = Path(out), 0
    for record in manifest.shards:
        write_table(_part(directory, record.number), labels.slice(first, record.num_rows))
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
    )
    write_text_atomic(directory / SET_NAME, found.model_dump_json(indent=2))
    return found


def places_of(rows: pa.Table) -> Iterator[Place]:
    """What a teacher may see of each row of a row table."""
    columns = (rows.column(name).to_pylist() for name in ("text", "seed", "index", "char_end"))
    return (Place(*values) for values in zip(*columns, strict=True))


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


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("labels-*.parquet"))


def _read_part(path: Path) -> Iterator[tuple[str, TeacherLabel]]:
    for row in _read_table(path).to_pylist():
        claims = tuple((claim["kind"], claim["value"]) for claim in row["claims"])
        yield row["key"], TeacherLabel(row["explanation"], claims, row["refusal"])


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=LABEL_SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise CheckpointError(f"{path} is not a label file: {error}. Remove it.") from error
