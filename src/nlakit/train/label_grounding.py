"""Grounding of labels of a corpus: a label keeps a claim only where the activation carries it.

What a claim is, and how a label reads without one, the claim system says: in a chat model's prose
claims are spans, and one that is dropped gives way to a hedge; a label by rule is written again.
The judge is a
warm-started AV, which must not have seen the labels that it judges. Either the plain pair's judges
labels of other documents (`grounding.documents`); or the documents of the warm start are split in
halves, an AV is trained on the labels of each, and judges those of the other: no label is lost, and
all judges have been trained on as much.

    judge-0, judge-1     an AV trained on one half, with its verdicts on the claims of the other
    judge                the verdicts of the plain pair's AV, where that is the judge
    labels               the labels without the claims that are not carried; all that the settings
                         of the grounding decide, so judges and verdicts outlive another threshold
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from nlakit.claim import Claim
from nlakit.claims.grounding import SHUFFLES, ClaimJudge, gain_over
from nlakit.claims.system import ClaimSystem
from nlakit.data.datasets import PairSet, load_pairs
from nlakit.data.labels import read_labels, write_label_set
from nlakit.data.shards import ShardReader, write_table
from nlakit.errors import InputError

from . import distributed
from .config import MIN_LABELS
from .model_recipe import GroundingConfig
from .progress import count_progress
from .run import COUNTS_NAME, RunDirectory, write_json
from .sft import train_verbalizer

if TYPE_CHECKING:
    from .corpus_world import CorpusWorld

NOTHING_CARRIED = "no claim is carried"
"""Why a row has no grounded label, as a teacher's refusal is counted."""

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


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
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

    def is_carried(self, config: GroundingConfig) -> bool:
        """Whether the label may go on claiming it."""
        gain = gain_over(self.probability, self.shuffled)
        threshold = config.thresholds.get(self.kind, config.threshold)
        return self.probability >= threshold and gain >= config.least_gain


def ground(world: CorpusWorld) -> None:
    """Write the grounded labels, unless that is done.

    Raises:
        InputError: too few labels, before or after.
        ResumeError: they were made with other settings.
    """
    recipe = world.recipe
    config, name = recipe.checked_grounding, world.grounded_set
    run = RunDirectory(labels_directory(world), recipe.grounded_source)
    if run.done is None:
        pairs = load_pairs(world.shards(name), world.labels(name))
        verdicts = _judged(world, pairs)
        grounded = grounded_texts(pairs.explanations, verdicts, config, world.claims)
        _check_enough(grounded, config, run.path)
        if distributed.is_first():
            reader = ShardReader(world.shards(name))
            _write_labels(reader, world.labels(name), run.path, grounded, verdicts, config)
        counts = _counts(grounded, verdicts, config)
        if distributed.is_first():
            write_json(run.path / COUNTS_NAME, counts)
        run.finish(counts)


def labels_directory(world: CorpusWorld) -> Path:
    """Where the grounded labels lie."""
    return world.space.stage("grounding") / "labels"


def judge_directory(world: CorpusWorld, number: int) -> Path:
    """Where the judge of one half lies."""
    return world.space.stage("grounding") / f"judge-{number}"


# -- judging ---------------------------------------------------------------------------------------
def _judged(world: CorpusWorld, pairs: PairSet) -> list[list[ClaimVerdict]]:
    """The claims of each label, judged by who has seen no label of its document."""
    by_halves = _judged_by_halves if world.recipe.checked_grounding.documents == 0 else _judged_new
    found: list[list[ClaimVerdict]] = [[] for _ in range(len(pairs))]
    for verdict in by_halves(world, pairs):
        found[verdict.row].append(verdict)
    return found


def _judged_new(world: CorpusWorld, pairs: PairSet) -> Iterable[ClaimVerdict]:
    """By the plain pair's AV, which has seen none of these documents."""
    directory = world.space.stage("grounding") / "judge"
    RunDirectory(directory, world.recipe.judged_source(len(world.pairs())))
    return _verdicts_of(world, pairs, list(range(len(pairs))), directory, world.judge)


def _judged_by_halves(world: CorpusWorld, pairs: PairSet) -> Iterable[ClaimVerdict]:
    halves = halves_of(pairs.rows)
    if min(map(len, halves)) < MIN_LABELS:
        raise InputError(
            f"[grounding] splits {len(pairs)} labels by document into {len(halves[0])} and "
            f"{len(halves[1])}; each half trains a judge, which needs {MIN_LABELS}. Give more "
            "documents, or leave [grounding] out."
        )
    for number, (own, judged) in enumerate((halves, halves[::-1])):
        directory = judge_directory(world, number)
        train_judge(world, pairs, own, directory)
        yield from _verdicts_of(world, pairs, judged, directory, directory / "model")


def halves_of(rows: pa.Table) -> tuple[list[int], list[int]]:
    """Rows of every other document, by `doc_id`: a text without an id of its own that stands in the
    corpus twice is one document."""
    documents = rows.column("doc_id").to_pylist()
    order = {name: place for place, name in enumerate(dict.fromkeys(documents))}
    halves: tuple[list[int], list[int]] = ([], [])
    for row, name in enumerate(documents):
        halves[order[name] % 2].append(row)
    return halves


def train_judge(world: CorpusWorld, pairs: PairSet, rows: list[int], directory: Path) -> None:
    """The AV's warm start, on the labels of some rows; another threshold leaves it done."""
    recipe = world.recipe
    training = recipe.judge(len(rows))
    run = RunDirectory(directory, recipe.decided_by("verbalizer", training))
    if run.done is None:
        lessons = PairSet(
            pairs.vectors[rows], [pairs.explanations[row] for row in rows], pairs.rows.take(rows)
        )
        verbalizer = world.models.new_verbalizer(
            world.models.new_meta("av", world.tokens(), pairs.vectors)
        )
        train_verbalizer(
            verbalizer, lessons, training.verbalizer, recipe.settings, run, world.claims.find
        )


def _verdicts_of(
    world: CorpusWorld, pairs: PairSet, judged: list[int], directory: Path, model: Path
) -> list[ClaimVerdict]:
    """A judge's verdicts on the claims of the rows `judged`; each process takes a share, and keeps
    what it found."""
    parts = [
        directory / f"claims-{rank + 1}-of-{distributed.num_processes()}.parquet"
        for rank in range(distributed.num_processes())
    ]
    # All or none: a sharded model is loaded, and run, by all of them.
    if not all(part.exists() for part in parts):
        judge = ClaimJudge(
            world.models.verbalizer(model, frozen=True),
            world.claims,
            world.recipe.precision,
            world.recipe.warm_start.micro_batch,
        )
        own = [asdict(each) for each in judge_claims(judge, pairs, judged)]
        write_table(parts[distributed.rank()], pa.Table.from_pylist(own, CLAIM_SCHEMA))
        distributed.wait()
    tables = (pq.read_table(part, schema=CLAIM_SCHEMA) for part in parts)
    return [ClaimVerdict(**row) for table in tables for row in table.to_pylist()]


def judge_claims(judge: ClaimJudge, pairs: PairSet, judged: Sequence[int]) -> list[ClaimVerdict]:
    """Verdicts on this process's share of the rows `judged`, document by document as they are.

    The other documents' vectors are those some way further on in `judged`.
    """
    places = list(distributed.share(len(judged)))
    rows = [judged[place] for place in places]
    texts = [pairs.explanations[row] for row in rows]
    turns = [len(judged) * turn // (SHUFFLES + 1) for turn in range(SHUFFLES + 1)]
    passes = []
    for number, turn in enumerate(turns):
        others = [judged[(at + turn) % len(judged)] for at in places]
        with count_progress(f"claims judged, {number + 1} of {len(turns)}", len(texts)) as told:
            passes.append(judge.judge(pairs.vectors[others], texts, told))
    real, *shuffled = passes
    return [
        ClaimVerdict(
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
    verdicts: Sequence[Sequence[ClaimVerdict]],
    config: GroundingConfig,
    system: ClaimSystem,
) -> list[str | None]:
    """Each label without the claims that are not carried; None where no word is left."""
    without = system.without
    assert without is not None, "grounding is of labels that can leave a claim out"
    return [
        without(text, [each.claim for each in found if not each.is_carried(config)]) or None
        for text, found in zip(explanations, verdicts, strict=True)
    ]


def _check_enough(grounded: Sequence[str | None], config: GroundingConfig, path: Path) -> None:
    left = sum(text is not None for text in grounded)
    if left < MIN_LABELS:
        raise InputError(
            f"Of {len(grounded)} labels {left} claim anything that their vectors carry, with "
            f"grounding.threshold = {_bounds(config)} and least_gain = {config.least_gain:g}; "
            f"training needs {MIN_LABELS}. Give lower ones and remove {path}; what the judges "
            f"found stands in {path.parent}/judge-*/claims-*.parquet."
        )


def _write_labels(
    reader: ShardReader,
    labels: Path,
    out: Path,
    grounded: Sequence[str | None],
    verdicts: Sequence[Sequence[ClaimVerdict]],
    config: GroundingConfig,
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
        f"grounded: claims of probability {_bounds(config)} and gain {config.least_gain:g}",
        reader.manifest,
    )


def _bounds(config: GroundingConfig) -> str:
    """The thresholds in words."""
    own = ", ".join(f"{kind} {least:g}" for kind, least in sorted(config.thresholds.items()))
    return f"{config.threshold:g} ({own})" if own else f"{config.threshold:g}"


def _counts(
    grounded: Sequence[str | None],
    verdicts: Iterable[Sequence[ClaimVerdict]],
    config: GroundingConfig,
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
