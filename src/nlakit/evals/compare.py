"""Two pairs on the same places, and their difference with an interval of its own.

Two intervals that overlap do not say that two pairs are alike: both move with the documents. Here
each draw of documents gives both figures, so the interval is of the difference alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nlakit.errors import InputError
from nlakit.pair.pair import Pair

from .bootstrap import difference_interval
from .claims import tally_rows
from .eval_set import EvalSet
from .probes import PROBE_ROWS, ProbeResult, measure_probes
from .rows import ReadSample, read_sample, read_vectors
from .section import Figure, Line, Section, ratio_figure

Ratio = tuple[Tensor, Tensor]
DIFFERENCE = "difference"


def compare(
    pair: Pair,
    other: Pair,
    eval_set: EvalSet,
    documents: int,
    seed: int,
    temperature: float = 0.0,
    probe_rows: int = PROBE_ROWS,
) -> Section:
    """FVE, precision, recall and readable recall of both, and the first less the second.

    Args:
        other: reads the same target; its FVE is held against the mean of `pair`.
        documents: held-out documents of `seed`, one position in each.
        probe_rows: training rows of the probes that say which facts are readable.

    Raises:
        InputError: fewer than 2 documents, or pairs of two targets.
    """
    check_same_target(pair, other)
    ours = read_sample(pair, eval_set, documents, seed, temperature)
    # One mean for both, or their FVEs would not be of the same variance.
    alike = replace(other, mean_D=pair.mean_D)
    theirs = read_vectors(alike, eval_set, ours.sample, seed, temperature)
    probes = measure_probes(pair.target, eval_set, ours.sample, probe_rows)
    ratios = [_ratios(each, probes) for each in (ours, theirs)]
    lines = [
        Line(
            name=name,
            figures={key: ratio_figure(*ratio, ours.doc_ids) for key, ratio in each.items()},
        )
        for name, each in zip(_names(pair, other), ratios, strict=True)
    ]
    differences = {
        name: _difference(ratios[0][name], ratios[1][name], ours.doc_ids) for name in ratios[0]
    }
    return ours.section(
        "compare",
        f"against {_names(pair, other)[1]}",
        "Both read the same places. difference: the first less the second; its interval is of the "
        "difference, from the same draws of documents for both. readable recall: of the facts that "
        "the MLP probe names rightly with a confidence of 0.8 or more.",
        [*lines, Line(name=DIFFERENCE, figures=differences)],
        suspicions=[*_silent(lines), *_suspicions(differences)],
    )


def check_same_target(pair: Pair, other: Pair) -> None:
    """Raise `InputError` for pairs that cannot read the same activations."""
    if _target(pair) != _target(other):
        raise InputError(
            f"{pair.name} and {other.name} read different targets, so their places are not the "
            "same. Compare pairs that were trained on one."
        )


def _target(pair: Pair) -> tuple[int, dict[str, str]]:
    files = {name: each for name, each in pair.weights.items() if name.startswith("target/")}
    return pair.target.site.layer, files


def _names(pair: Pair, other: Pair) -> tuple[str, str]:
    same = pair.name == other.name
    return pair.name, f"{other.name} (other)" if same else other.name


def _ratios(sample: ReadSample, probes: dict[str, ProbeResult]) -> dict[str, Ratio]:
    """What is summed over rows and divided, for each figure."""
    errors = sample.reading.errors
    explained = {"FVE": (errors.variance_N - errors.mse_N, errors.variance_N)}
    if sample.states is None:
        return explained
    rows = tally_rows(sample.reading.texts, sample.states, sample.claims, probes)
    true_N, checked_N, recalled_N, facts_N, readable_recalled_N, readable_N = torch.tensor(rows).T
    return {
        **explained,
        "precision": (true_N, checked_N),
        "recall": (recalled_N, facts_N),
        "readable recall": (readable_recalled_N, readable_N),
    }


def _difference(ours: Ratio, theirs: Ratio, documents: list[str]) -> Figure:
    values = [ratio_figure(*each, documents).value for each in (ours, theirs)]
    if values[0] is None or values[1] is None:
        return Figure(value=None)
    return Figure(
        value=values[0] - values[1], interval=difference_interval(ours, theirs, documents)
    )


def _silent(lines: list[Line]) -> list[str]:
    """Pairs that say nothing of which the truth could be compared."""
    return [
        f"Says nothing that can be checked: {line.name} makes no claim, so its FVE has no truth "
        "beside it."
        for line in lines
        if "precision" in line.figures and line.figures["precision"].value is None
    ]


def _suspicions(differences: dict[str, Figure]) -> list[str]:
    """Figures whose whole interval lies below zero."""
    return [
        f"Lower {name}: by {-figure.value:.3f}, at least {-figure.interval.high:.3f}."
        for name, figure in differences.items()
        if figure.value is not None and figure.interval is not None and figure.interval.high < 0
    ]
