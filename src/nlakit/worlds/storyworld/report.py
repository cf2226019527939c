"""The storyworld's report: a pair read against a world whose truth is known."""

from __future__ import annotations

from nlakit.evals.evaluation import PairReport, Progress
from nlakit.evals.evaluation import evaluate as evaluate_on
from nlakit.evals.probes import PROBE_ROWS
from nlakit.pair.pair import Pair

from .eval_set import StoryworldSet


def evaluate(
    pair: Pair,
    documents: int,
    seed: int,
    temperature: float = 0.0,
    positions_per_document: int = 1,
    probe_rows: int = PROBE_ROWS,
    progress: Progress | None = None,
) -> PairReport:
    """Measure a pair on `documents` held-out documents of `seed`, as `evals.evaluation` does.

    Raises:
        InputError: fewer than 2 documents.
    """
    return evaluate_on(
        pair,
        StoryworldSet(),
        documents,
        seed,
        temperature,
        positions_per_document,
        probe_rows,
        progress,
    )
