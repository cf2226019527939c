"""Grounding on a released model: a label keeps a claim only where the activation carries it.

`grounding` is the storyworld's, whose teacher can write a label again. Here nobody knows the world:
claims are spans of the teacher's prose (`claims.spans`), and one that is dropped gives way to a
hedge. The judge is the warm-started AV. It may know no label that it judges, nor another one of the
same document by heart, so the documents are split in halves, an AV is taught the labels of each,
and judges those of the other: no label is lost to teaching, and all judges have read as much.

    judge-0, judge-1     an AV taught one half, with what it found of the claims of the other
    labels               the labels without the claims that were not carried; all that the settings
                         of the grounding decide, so judges and claims outlive another threshold
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.claim import Claim
from nlakit.claims.grounding import SHUFFLES, ClaimJudge, gain_over
from nlakit.claims.spans import SPANS, hedged
from nlakit.data.datasets import PairSet, load_pairs
from nlakit.data.labels import read_labels, write_label_set
from nlakit.data.shards import ShardReader, write_table
from nlakit.errors import InputError
from nlakit.models.verbalizer import Verbalizer

from . import distributed
from .model_recipe import MIN_LABELS, ModelRecipe, SpanGroundingConfig, StageSettings
from .run import RunDirectory
from .sft import train_verbalizer

NOTHING_CARRIED = "no claim is carried"
"""Why a row has no grounded label, as a teacher's refusal is counted."""
LABELS_NAME = "labels"

CLAIM_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("kind", pa.string()),
        ("value", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("probability", pa.float64()),
        ("shuffled", pa.float64()),
    ]
)


class VerbalizerMaker(Protocol):
    """Makes a verbalizer of the run: untrained, or as `directory` has it."""

    def __call__(self, directory: Path | None = None, *, frozen: bool = False) -> Verbalizer: ...


@dataclass(frozen=True, slots=True)
class SpanVerdict:
    """What a judge found of one claim of a label.

    Attributes:
        row: of the labelled rows.
        start, end: the claim's characters in the label.
        probability: of its words, given the row's vector.
        shuffled: the same given vectors of other documents, the mean.
    """

    row: int
    kind: str
    value: str
    start: int
    end: int
    probability: float
    shuffled: float

    @property
    def claim(self) -> Claim:
        return Claim(self.kind, self.value, self.start, self.end)

    def is_carried(self, config: SpanGroundingConfig) -> bool:
        """Whether the label may go on claiming it."""
        gain = gain_over(self.probability, self.shuffled)
        return self.probability >= config.threshold and gain >= config.least_gain


def ground_labels(
    recipe: ModelRecipe,
    shards: Path,
    labels: Path,
    directory: Path,
    verbalizer: VerbalizerMaker,
) -> PairSet:
    """The labelled rows of `shards` with labels that keep to what is carried; made unless done.

    Args:
        labels: the teacher's.
        directory: of the stage.

    Raises:
        InputError: too few labels, before or after.
        ResumeError: `directory` was made with other settings.
    """
    config = grounding_of(recipe)
    settings = StageSettings(seed=recipe.seed, precision=recipe.precision, source=recipe.origin)
    run = RunDirectory(directory / LABELS_NAME, settings)
    if run.done is None:
        pairs = load_pairs(shards, labels)
        verdicts = judge_labels(recipe, pairs, directory, verbalizer)
        grounded = grounded_texts(pairs.explanations, verdicts, config)
        _check_enough(grounded, config, run.path)
        if distributed.is_first():
            _write_labels(ShardReader(shards), labels, run.path, grounded, verdicts, config)
        run.finish(_counts(grounded, verdicts, config))
    return load_pairs(shards, run.path)


def grounding_of(recipe: ModelRecipe) -> SpanGroundingConfig:
    assert recipe.grounding is not None, "the stage of a recipe without one is never made"
    return recipe.grounding


def judge_directory(directory: Path, number: int) -> Path:
    """Where a judge of the stage lies."""
    return directory / f"judge-{number}"


# -- judging ---------------------------------------------------------------------------------------
def judge_labels(
    recipe: ModelRecipe, pairs: PairSet, directory: Path, verbalizer: VerbalizerMaker
) -> list[list[SpanVerdict]]:
    """The claims of each label, judged by who has read no label of its document."""
    halves = halves_of(pairs.rows)
    if min(map(len, halves)) < MIN_LABELS:
        raise InputError(
            f"[grounding] splits {len(pairs)} labels by document into {len(halves[0])} and "
            f"{len(halves[1])}; each half teaches a judge, which needs {MIN_LABELS}. Give more "
            "documents, or leave [grounding] out."
        )
    found: list[list[SpanVerdict]] = [[] for _ in range(len(pairs))]
    for number, (taught, judged) in enumerate((halves, halves[::-1])):
        own = judge_directory(directory, number)
        train_judge(recipe, pairs, taught, own, verbalizer)
        for verdict in _verdicts_of(recipe, pairs, judged, own, verbalizer):
            found[verdict.row].append(verdict)
    return found


def halves_of(rows: pa.Table) -> tuple[list[int], list[int]]:
    """Rows of every other document, by `doc_id`: a text without an id of its own that stands in the
    corpus twice is one document."""
    documents = rows.column("doc_id").to_pylist()
    order = {name: place for place, name in enumerate(dict.fromkeys(documents))}
    halves: tuple[list[int], list[int]] = ([], [])
    for row, name in enumerate(documents):
        halves[order[name] % 2].append(row)
    return halves


def train_judge(
    recipe: ModelRecipe,
    pairs: PairSet,
    rows: list[int],
    directory: Path,
    verbalizer: VerbalizerMaker,
) -> None:
    """The AV's warm start, on the labels of some rows; another threshold leaves it done."""
    warm = recipe.warm_start.model_copy(update={"epochs": grounding_of(recipe).epochs})
    taught = recipe.model_copy(update={"warm_start": warm, "grounding": None}).training(len(rows))
    lessons = PairSet(
        pairs.vectors[rows], [pairs.explanations[row] for row in rows], pairs.rows.take(rows)
    )
    run = RunDirectory(directory, taught.stage("verbalizer"))
    train_verbalizer(verbalizer(), lessons, taught.verbalizer, taught.settings, run)


def _verdicts_of(
    recipe: ModelRecipe,
    pairs: PairSet,
    judged: list[int],
    directory: Path,
    verbalizer: VerbalizerMaker,
) -> list[SpanVerdict]:
    """A judge's verdicts on the claims of the rows `judged`; each process takes a share, and keeps
    what it found."""
    parts = [
        directory / f"claims-{rank + 1}-of-{distributed.num_processes()}.parquet"
        for rank in range(distributed.num_processes())
    ]
    # All or none: a model that is cut into pieces is loaded, and run, by all of them.
    if not all(part.exists() for part in parts):
        judge = ClaimJudge(
            verbalizer(directory / "model", frozen=True),
            SPANS,
            recipe.precision,
            recipe.warm_start.micro_batch,
        )
        own = [asdict(each) for each in judge_spans(judge, pairs, judged)]
        write_table(parts[distributed.rank()], pa.Table.from_pylist(own, CLAIM_SCHEMA))
        distributed.wait()
    tables = (pq.read_table(part, schema=CLAIM_SCHEMA) for part in parts)
    return [SpanVerdict(**row) for table in tables for row in table.to_pylist()]


def judge_spans(judge: ClaimJudge, pairs: PairSet, judged: Sequence[int]) -> list[SpanVerdict]:
    """Verdicts on this process's share of the rows `judged`, document by document as they are.

    The other documents' vectors are those some way further on in `judged`.
    """
    places = list(distributed.share(len(judged)))
    rows = [judged[place] for place in places]
    texts = [pairs.explanations[row] for row in rows]
    real = judge.judge(pairs.vectors[rows], texts)
    turns = (len(judged) * turn // (SHUFFLES + 1) for turn in range(1, SHUFFLES + 1))
    shuffled = [
        judge.judge(pairs.vectors[[judged[(at + turn) % len(judged)] for at in places]], texts)
        for turn in turns
    ]
    return [
        SpanVerdict(
            row=row,
            kind=each.claim.kind,
            value=each.claim.value,
            start=each.claim.start,
            end=each.claim.end,
            probability=each.probability,
            shuffled=sum(found[at][place].probability for found in shuffled) / SHUFFLES,
        )
        for at, row in enumerate(rows)
        for place, each in enumerate(real[at])
    ]


# -- labels ----------------------------------------------------------------------------------------
def grounded_texts(
    explanations: Sequence[str],
    verdicts: Sequence[Sequence[SpanVerdict]],
    config: SpanGroundingConfig,
) -> list[str | None]:
    """Each label without the claims that are not carried; None where no word is left."""
    return [
        hedged(text, [each.claim for each in found if not each.is_carried(config)]) or None
        for text, found in zip(explanations, verdicts, strict=True)
    ]


def _check_enough(grounded: Sequence[str | None], config: SpanGroundingConfig, path: Path) -> None:
    left = sum(text is not None for text in grounded)
    if left < MIN_LABELS:
        raise InputError(
            f"Of {len(grounded)} labels {left} claim anything that their vectors carry, with "
            f"grounding.threshold = {config.threshold:g} and least_gain = {config.least_gain:g}; "
            f"training needs {MIN_LABELS}. Give lower ones and remove {path}; what the judges "
            f"found stands in {path.parent}/judge-*/claims-*.parquet."
        )


def _write_labels(
    reader: ShardReader,
    labels: Path,
    out: Path,
    grounded: Sequence[str | None],
    verdicts: Sequence[Sequence[SpanVerdict]],
    config: SpanGroundingConfig,
) -> None:
    """A label set that `load_pairs` reads, beside the same shards as the teacher's."""
    table = read_labels(labels, reader.manifest)
    changed, found = table.to_pylist(), iter(zip(grounded, verdicts, strict=True))
    for row in changed:
        if row["explanation"] is None:
            continue
        row["explanation"], judged = next(found)
        row["refusal"] = NOTHING_CARRIED if row["explanation"] is None else None
        row["claims"] = [
            {"kind": each.kind, "value": each.value} for each in judged if each.is_carried(config)
        ]
    write_label_set(
        out,
        pa.Table.from_pylist(changed, table.schema),
        f"grounded: spans of probability {config.threshold:g} and gain {config.least_gain:g}",
        reader.manifest,
    )


def _counts(
    grounded: Sequence[str | None],
    verdicts: Iterable[Sequence[SpanVerdict]],
    config: SpanGroundingConfig,
) -> dict[str, int | dict[str, int]]:
    """For people: labels, and claims by kind."""
    counted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for each in (verdict for found in verdicts for verdict in found):
        counted[each.is_carried(config)][each.kind] += 1
    return {
        "labels": len(grounded),
        "emptied": sum(text is None for text in grounded),
        "kept": dict(sorted(counted[True].items())),
        "dropped": dict(sorted(counted[False].items())),
    }
