"""The form of every evaluation but the storyworld's own: lines of figures, and what looks wrong.

One form, so that a terminal, a page and a JSON show each of them alike, floors and intervals
included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.config import FrozenModel
from nlakit.core.fidelity import RowErrors

from .bootstrap import Interval, ratio_interval
from .claims import tally_rows


class Figure(FrozenModel):
    """A number; None where it is not defined."""

    value: float | None
    interval: Interval | None = None
    """95 % bootstrap interval, by document."""
    count: int | None = None
    """How many rows, trials or claims it is over, where not over all rows of the section."""


class Line(FrozenModel):
    """What one variant, baseline or setting gives."""

    name: str
    figures: dict[str, Figure]
    floor: bool = False
    """Whether it knows nothing, or little: what the other lines have to beat."""


class Section(FrozenModel):
    """One evaluation of one pair."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_section"] = "nla_section"
    name: str
    title: str
    about: str
    """How the figures are defined."""
    nla: str
    documents: int
    rows: int
    seed: int
    temperature: float
    lines: tuple[Line, ...]
    suspicions: tuple[str, ...] = ()
    """Ways in which the pair seems to cheat, each with the number that says so."""
    notes: tuple[str, ...] = ()
    """What the pair did not say and was measured, or had to be left out."""

    def figure(self, line: str, name: str) -> Figure:
        """One figure by its names. Raises `KeyError` for a name that is not there."""
        return next(each for each in self.lines if each.name == line).figures[name]

    @property
    def columns(self) -> list[str]:
        """Names of all figures, in the order in which they first occur."""
        return list(dict.fromkeys(name for line in self.lines for name in line.figures))

    def __rich__(self) -> Group:
        table = Table(
            title=f"{self.nla}: {self.title}, {self.rows} places in {self.documents} documents",
            caption=self.about,
        )
        for name in ("", *self.columns):
            table.add_column(name, justify="right" if name else "left")
        for line in self.lines:
            cells = [shown(line.figures.get(name)) for name in self.columns]
            table.add_row(Text(line.name), *cells, style="dim" if line.floor else None)
        warnings = [Text(f"! {each}", style="yellow") for each in self.suspicions]
        notes = [Text(each, style="dim") for each in self.notes]
        return Group(table, *warnings, *notes)


def shown(figure: Figure | None) -> str:
    """A figure with its interval, for the eye."""
    if figure is None or figure.value is None:
        return "–"
    if figure.interval is None:
        return f"{figure.value:.3f}"
    low, high = figure.interval
    return f"{figure.value:.3f} [{low:.3f}, {high:.3f}]"


def share(
    held: Sequence[bool] | Sequence[float], documents: Sequence[str], over: Sequence[bool] = ()
) -> Figure:
    """The mean of N numbers with its interval by document.

    Args:
        documents: document of each.
        over: which of them count; by default all.
    """
    kept = [index for index, counts in enumerate(over or [True] * len(held)) if counts]
    if not kept:
        return Figure(value=None, count=0)
    values = torch.tensor([float(held[index]) for index in kept], dtype=torch.float64)
    names = [documents[index] for index in kept]
    enough = len(set(names)) > 1
    interval = ratio_interval(values, torch.ones_like(values), names) if enough else None
    return Figure(value=values.mean().item(), interval=interval, count=len(kept))


def fve_figure(errors: RowErrors, documents: Sequence[str]) -> Figure:
    """FVE with its interval by document."""
    return explained(errors.mse_N, errors.variance_N, documents)


def claim_figures(
    texts: Sequence[str],
    states: Sequence[State] | None,
    system: ClaimSystem,
    documents: Sequence[str],
) -> dict[str, Figure]:
    """Precision and recall of explanations, defined as in `claims`, with intervals by document.

    None of either where nobody can check a claim.
    """
    if states is None:
        return {}
    tallies_6N = torch.tensor(tally_rows(texts, states, system)).T
    true_N, checked_N, recalled_N, facts_N, *_ = tallies_6N
    return {
        "precision": ratio_figure(true_N, checked_N, documents),
        "recall": ratio_figure(recalled_N, facts_N, documents),
    }


def explained(
    loss_N: Float[Tensor, " N"], worst_N: Float[Tensor, " N"], documents: Sequence[str]
) -> Figure:
    """`1 - sum(loss) / sum(worst)` with its interval by document; None where nothing can be lost.

    A share of what there is to win: 1 loses nothing, 0 loses as much as `worst`.
    """
    return ratio_figure(worst_N - loss_N, worst_N, documents)


def ratio_figure(
    top_N: Float[Tensor, " N"], bottom_N: Float[Tensor, " N"], documents: Sequence[str]
) -> Figure:
    """`sum(top) / sum(bottom)` with its interval by document; None unless the bottom is above 0."""
    bottom = bottom_N.double().sum().item()
    if bottom <= 0:
        return Figure(value=None)
    value = top_N.double().sum().item() / bottom
    if len(set(documents)) < 2:
        return Figure(value=value)
    return Figure(value=value, interval=ratio_interval(top_N, bottom_N, documents))
