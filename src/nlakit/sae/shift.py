"""SHIFT (Marks et al. 2025): take a spurious cue out of a classifier by taking latents out of what
it reads, with no row on which cue and answer differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, ratio_interval

from .autoencoder import SparseAutoencoder
from .facts import logistic


class Labelled(NamedTuple):
    """Raw activations with two yes-or-no answers each."""

    x_ND: Float[Tensor, "N D"]
    wanted_N: Bool[Tensor, " N"]
    spurious_N: Bool[Tensor, " N"]


class ShiftLine(FrozenModel):
    """Accuracies of one head on balanced rows. Intervals are 95 %, by row: a document has one."""

    name: str
    wanted: float
    """Mean over the four groups."""
    wanted_interval: Interval
    spurious: float
    """How well the head's answer predicts the other fact; 0.5 is none of it."""
    spurious_interval: Interval
    worst_group: float
    """Accuracy for the wanted fact on the worst of the four groups."""
    worst_group_interval: Interval


class ShiftReport(FrozenModel):
    """A head before and after."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_shift"] = "sae_shift"
    sae: str
    wanted: str
    spurious: str
    d_sae: int
    marked: int
    train_rows: int
    test_rows: int
    lines: tuple[ShiftLine, ...]


def shift(
    sae: SparseAutoencoder,
    ambiguous: Labelled,
    balanced: Labelled,
    test: Labelled,
    marked: Sequence[int],
    *,
    names: tuple[str, str, str],
) -> ShiftReport:
    """Train a head where both facts agree, ablate the marked latents, train it again.

    Args:
        balanced: rows of all four groups, for the oracle alone.
        names: of the autoencoder, the wanted and the spurious fact.

    Raises:
        InputError: the facts differ on an ambiguous row, or a group is missing from the test.
    """
    if not torch.equal(ambiguous.wanted_N, ambiguous.spurious_N):
        raise InputError("The two facts differ on some rows of the ambiguous set.")
    groups = {(w, s) for w, s in zip(test.wanted_N.tolist(), test.spurious_N.tolist(), strict=True)}
    if len(groups) != 4:
        raise InputError(f"The test has {len(groups)} of the four groups.")
    original = _Head(ambiguous.x_ND, ambiguous.wanted_N)
    without = [ablated(sae, each.x_ND, marked) for each in (ambiguous, test)]
    again = _Head(without[0], ambiguous.wanted_N)
    oracle = _Head(balanced.x_ND, balanced.wanted_N)
    return ShiftReport(
        sae=names[0],
        wanted=names[1],
        spurious=names[2],
        d_sae=sae.config.d_sae,
        marked=len(marked),
        train_rows=len(ambiguous.x_ND),
        test_rows=len(test.x_ND),
        lines=(
            _line("trained on ambiguous rows", original.says(test.x_ND), test),
            _line("SHIFT: marked latents ablated", original.says(without[1]), test),
            _line("SHIFT, head trained again", again.says(without[1]), test),
            _line("oracle: trained on balanced rows", oracle.says(test.x_ND), test),
        ),
    )


def ablated(
    sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], marked: Sequence[int]
) -> Float[Tensor, "N D"]:
    """Activations without what the marked latents write; the error stays."""
    chosen = list(marked)
    return x_ND - sae.encode(x_ND)[:, chosen] @ sae.weights["W_dec"][chosen]


class _Head:
    """A linear classifier on standardized activations."""

    def __init__(self, x_ND: Tensor, y_N: Tensor) -> None:
        self.center_D, self.spread_D = x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)
        self.weight_D1, self.bias_1 = logistic(self._inner(x_ND), y_N[:, None])

    def says(self, x_ND: Tensor) -> Tensor:
        return (self._inner(x_ND) @ self.weight_D1 + self.bias_1 > 0).flatten()

    def _inner(self, x_ND: Tensor) -> Tensor:
        return (x_ND - self.center_D) / self.spread_D


def _line(name: str, said_N: Tensor, test: Labelled) -> ShiftLine:
    right_N = said_N == test.wanted_N
    group_N = test.wanted_N.int() * 2 + test.spurious_N.int()
    shares = [right_N[group_N == group].double().mean().item() for group in range(4)]
    # A row counts for as much as its group has few: groups of any size weigh the same.
    weight_N = 1 / group_N.bincount(minlength=4)[group_N].double()
    worst_N = (group_N == shares.index(min(shares))).double()
    same_N = said_N == test.spurious_N
    return ShiftLine(
        name=name,
        wanted=sum(shares) / 4,
        wanted_interval=_interval(right_N, weight_N),
        spurious=same_N.double().mean().item(),
        spurious_interval=_interval(same_N, torch.ones_like(weight_N)),
        worst_group=min(shares),
        worst_group_interval=_interval(right_N, worst_N),
    )


def _interval(true_N: Tensor, weight_N: Tensor) -> Interval:
    rows = [str(row) for row in range(len(true_N))]
    return ratio_interval(true_N.double() * weight_N, weight_N, rows)
