"""The storyworld benchmark for NLA methods: one target, one seed, one split, one file a submission.

A method is free in how it trains an AV and an AR; what they are measured on is fixed. So target,
site, mean and scale are the bundled NLA's, whatever lies beside a submission.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from nlakit.card import Finite, read_card
from nlakit.config import FrozenModel, describe_errors, validate_json, write_text_atomic
from nlakit.contract import read_meta
from nlakit.errors import CheckpointError, InputError
from nlakit.evals.bootstrap import Interval
from nlakit.evals.claims import KindScore
from nlakit.evals.evaluation import PairReport
from nlakit.evals.floors import Floors
from nlakit.evals.probes import ProbeScore
from nlakit.models.placement import ON_CPU, Placement
from nlakit.pair.load import load_source
from nlakit.pair.pair import Pair
from nlakit.pair.source import PairSource, find_pair, weight_hashes
from nlakit.registry import resolve

SEED = 90_001
"""Of the held-out documents that every submission is read on."""
TARGET_PREFIX = "target/"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,59}$"
CONDITIONS = ("documents", "seed", "target")
"""What has to be equal of submissions that stand in one table."""

Share = Annotated[float, Field(ge=0, le=1)]


class Submission(FrozenModel):
    """A method's figures. What they mean: `PairReport` and `ClaimScores`."""

    schema_version: Literal[1] = 1
    kind: Literal["truth_submission"] = "truth_submission"
    name: str = Field(pattern=NAME_PATTERN)
    documents: int = Field(ge=2)
    """Held-out documents, one position in each."""
    seed: int
    temperature: float = Field(ge=0)
    target: dict[str, str] = Field(min_length=1)
    """SHA-256 of each weight file of the target, by its name."""
    weights: dict[str, str]
    """The same of the whole pair, by path: `av/…`, `ar/…` and what lies beside them."""
    fve: Finite
    fve_interval: Interval
    fve_frozen_ar: Finite | None
    fve_control_ar: Finite | None
    floors: Floors
    precision: Share
    recall: Share
    abstained: Share | None
    readable_recall: Share | None
    ece: Share | None
    paraphrase_kept: Finite | None
    mean_words: Finite
    mean_tokens: Finite
    reading_efficiency: dict[str, Finite]
    per_kind: dict[str, KindScore]
    probes: dict[str, ProbeScore]
    """What small networks read of the same places: the ceiling of `per_kind`."""

    @property
    def score(self) -> float:
        """Precision x readable recall: neither silence nor guessing raises it. 0 without recall."""
        return self.precision * (self.readable_recall or 0.0)


def submission_of(name: str, report: PairReport) -> Submission:
    """A report as a submission of `name`.

    Raises:
        InputError: the name cannot be used, the report is of another seed, has no claims, or does
            not say what it was measured on.
    """
    check_name(name)
    if report.seed != SEED:
        raise InputError(f"A submission is measured with seed {SEED}, found seed {report.seed}.")
    target = {
        path.removeprefix(TARGET_PREFIX): sha256
        for path, sha256 in report.weights.items()
        if path.startswith(TARGET_PREFIX)
    }
    if not target:
        raise InputError(f"The report of {report.nla!r} names no weights of a target.")
    claims = report.claims
    if claims is None:
        raise InputError(f"The report of {report.nla!r} has no claims that were checked.")
    return Submission(
        name=name,
        documents=report.documents,
        seed=report.seed,
        temperature=report.temperature,
        target=target,
        weights=report.weights,
        fve=report.fve,
        fve_interval=report.fve_interval,
        fve_frozen_ar=report.fve_frozen_ar,
        fve_control_ar=report.fve_control_ar,
        floors=report.floors,
        precision=claims.precision,
        recall=claims.recall,
        abstained=claims.abstained,
        readable_recall=claims.readable_recall,
        ece=claims.ece,
        paraphrase_kept=report.paraphrase_kept,
        mean_words=report.lengths.mean_words,
        mean_tokens=report.lengths.mean_tokens,
        reading_efficiency=claims.reading_efficiency,
        per_kind=claims.per_kind,
        probes=report.probes,
    )


def check_name(name: str) -> None:
    """Raise `InputError` for a name that no file or table should have."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(
            f"A submission cannot be called {name!r}. Use up to 60 letters, digits, spaces and "
            "any of . _ + -, beginning with a letter or digit."
        )


def write_submission(submission: Submission, path: str | Path) -> None:
    """Write the JSON, atomically."""
    write_text_atomic(path, submission.model_dump_json(indent=2) + "\n")


def read_submission(path: str | Path) -> Submission:
    """A submission from its JSON. Raises `CheckpointError` when it is not one."""
    try:
        return validate_json(Submission, Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except pydantic.ValidationError as error:
        raise CheckpointError(describe_errors(Submission, error, str(path))) from error


def read_submissions(directory: str | Path) -> list[Submission]:
    """All `*.json` of a directory. Raises `InputError` where there are none."""
    paths = sorted(Path(directory).glob("*.json"))
    if not paths:
        raise InputError(
            f"Asked for the submissions in {directory}; found no JSON file there. "
            "`nlakit bench-truth --name NAME` writes one."
        )
    return [read_submission(path) for path in paths]


# -- what is measured ------------------------------------------------------------------------------
def check_target(target: Path) -> None:
    """Raise `InputError` unless `target` has the very weights of the bundled target."""
    expected, found = weight_hashes(resolve() / "target"), weight_hashes(target)
    if found != expected:
        raise InputError(
            f"{target} is not the benchmark's target: expected weights {_short(expected)}, found "
            f"{_short(found)}. A submission reads the target that comes with nlakit, as it is: "
            "train on its activations, and copy its files rather than saving them again."
        )


def load_entry(name: str, source: PairSource, where: Placement = ON_CPU) -> Pair:
    """The submitted AV and AR over the bundled target, at its site, against its mean.

    Raises:
        InputError: the pair was made for another target or another layer of it.
        CheckpointError, ContractError: a part cannot be read.
    """
    check_target(source.target)
    bundled = find_pair()
    layer, found = read_card(resolve()).layer, read_meta(source.av).extraction.layer_index
    if found != layer:
        raise InputError(
            f"{source.av} explains layer {found}; the benchmark reads layer {layer}. Train on "
            "activations of that layer."
        )
    fixed = replace(source, target=bundled.target, mean=bundled.mean)
    return load_source(fixed, where, comparisons=True).named(name)


def _short(hashes: dict[str, str]) -> str:
    return ", ".join(f"{name} {sha256[:12]}" for name, sha256 in hashes.items()) or "none"


# -- the tables ------------------------------------------------------------------------------------
def ranked(submissions: Sequence[Submission]) -> list[Submission]:
    """Best first: by precision x readable recall, then by FVE.

    Raises:
        InputError: they differ in documents, seed or target, and cannot be compared.
    """
    for other in submissions[1:]:
        _check_comparable(submissions[0], other)
    return sorted(submissions, key=lambda each: (-each.score, -each.fve, each.name))


def _check_comparable(one: Submission, other: Submission) -> None:
    differing = [name for name in CONDITIONS if getattr(one, name) != getattr(other, name)]
    if differing:
        raise InputError(
            f"{one.name!r} and {other.name!r} cannot stand in one table: they differ in "
            f"{' and '.join(differing)} ({_conditions(one)}; {_conditions(other)}). "
            "Measure one of them again, or keep it in another directory."
        )


def _conditions(submission: Submission) -> str:
    return (
        f"{submission.documents} documents of seed {submission.seed} through "
        f"{_short(submission.target)}"
    )


def leaderboard(submissions: Sequence[Submission]) -> str:
    """A Markdown table, best first, under a line that says how it is sorted.

    Raises as `ranked` does.
    """
    if not submissions:
        return "No submission yet.\n"
    rows = ranked(submissions)
    head = (
        f"On {rows[0].documents:,} held-out documents (seed {rows[0].seed}), sorted by precision × "
        "readable recall, then by FVE:"
    )
    names = (
        "method", "temperature", "precision × readable recall", "precision", "readable recall",
        "recall", "silent", "ECE", "FVE", "FVE, frozen AR", "FVE, control AR",
        "FVE retained, paraphrased", "words",
    )  # fmt: skip
    return "\n".join([head, "", *_table(names, map(_cells, rows)), ""])


def _cells(row: Submission) -> list[str]:
    low, high = map(_number, row.fve_interval)
    rates = (row.score, row.precision, row.readable_recall, row.recall, row.abstained, row.ece)
    others = (row.fve_frozen_ar, row.fve_control_ar, row.paraphrase_kept)
    return [
        row.name,
        f"{row.temperature:g}",
        *map(_number, rates),
        f"{_number(row.fve)} [{low}, {high}]",
        *map(_number, others),
        f"{row.mean_words:.1f}",
    ]


def kinds_table(submissions: Sequence[Submission]) -> str:
    """Markdown: precision / recall of each kind of fact, beside what the MLP probe reads.

    Raises as `ranked` does.
    """
    if not submissions:
        return "No submission yet.\n"
    rows = ranked(submissions)
    probes = rows[0].probes
    names = ("kind", "MLP probe", "chance", *(row.name for row in rows))
    kinds = dict.fromkeys(kind for row in rows for kind in row.per_kind)
    lines = [
        [kind, *_ceiling(probes.get(kind)), *(_rates(row, kind) for row in rows)] for kind in kinds
    ]
    return "\n".join(["Precision / recall:", "", *_table(names, lines), ""])


def _ceiling(probe: ProbeScore | None) -> list[str]:
    return ["–", "–"] if probe is None else [_number(probe.mlp), _number(probe.chance)]


def _rates(row: Submission, kind: str) -> str:
    score = row.per_kind.get(kind)
    return "–" if score is None else f"{_number(score.precision)} / {_number(score.recall)}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
