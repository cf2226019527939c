"""The ablation's result file, and its table. No torch."""

from __future__ import annotations

from pathlib import Path

import pydantic

from nlakit.config import FrozenModel, describe_errors
from nlakit.errors import CheckpointError, InputError

CONDITIONS = ("recipe", "steps", "documents", "seed", "temperature")
"""What has to be equal of rows that stand in one table."""


class Row(FrozenModel):
    """One pair. What the figures mean: `PairReport` and `ClaimScores`."""

    terms: str
    changes: tuple[str, ...]
    """Keys of the recipe's `[grounded_rl]` that differ."""
    fve: float
    fve_interval: tuple[float, float]
    fve_control_ar: float | None
    precision: float
    recall: float
    readable_recall: float | None
    abstained: float | None
    tokens: float
    """Mean length of an explanation, tags and EOS counted."""
    paraphrase_kept: float | None


class Ablation(FrozenModel):
    """Pairs that differ in the reward alone."""

    recipe: str
    steps: int
    """Of RL."""
    documents: int
    """Held-out, one position in each."""
    seed: int
    temperature: float
    rows: tuple[Row, ...] = ()

    def row(self, terms: str) -> Row | None:
        """The one of some terms; None where it has not been measured."""
        return next((each for each in self.rows if each.terms == terms), None)

    def joined(self, earlier: Ablation | None) -> Ablation:
        """With the rows of an earlier run.

        Raises:
            InputError: those were measured under other conditions.
        """
        if earlier is None:
            return self
        differing = [
            f"{name} {getattr(earlier, name)} there, {getattr(self, name)} asked for"
            for name in CONDITIONS
            if getattr(earlier, name) != getattr(self, name)
        ]
        if differing:
            raise InputError(
                f"The result file holds an ablation of other conditions: {'; '.join(differing)}. "
                "Remove it, or ask for the same."
            )
        return earlier


def read_ablation(path: Path) -> Ablation | None:
    """A result file; None where there is none. Raises `CheckpointError` for another file."""
    if not path.is_file():
        return None
    try:
        return Ablation.model_validate_json(path.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        raise CheckpointError(describe_errors(Ablation, error, str(path))) from error


def table(text: str) -> str:
    """Markdown from a result file: a row for each reward, the start first."""
    found = Ablation.model_validate_json(text)
    decoding = "greedy decoding" if not found.temperature else f"temperature {found.temperature:g}"
    head = (
        f"{found.steps} steps each from the same start; {found.documents:,} held-out documents "
        f"(seed {found.seed}), {decoding}:"
    )
    names = ("reward", "FVE", "FVE, control AR", "precision", "recall", "readable recall",
             "silent", "tokens", "FVE retained, paraphrased")  # fmt: skip
    rule = f"|---|{'---:|' * (len(names) - 1)}"
    lines = [f"| {' | '.join(cells)} |" for cells in (names, *map(_cells, found.rows))]
    return "\n".join([head, "", lines[0], rule, *lines[1:], ""])


def _cells(row: Row) -> list[str]:
    low, high = map(_number, row.fve_interval)
    rates = (
        row.fve_control_ar, row.precision, row.recall, row.readable_recall, row.abstained,
    )  # fmt: skip
    return [
        row.terms,
        f"{_number(row.fve)} [{low}, {high}]",
        *map(_number, rates),
        f"{row.tokens:.1f}",
        _number(row.paraphrase_kept),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
