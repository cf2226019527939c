"""What a pair is measured against where it does not say it itself."""

from __future__ import annotations

from dataclasses import replace

from nlakit.core.fidelity import mean_of
from nlakit.pair.pair import Pair
from nlakit.pair.source import PairSource

from .confidence import QUICK_DOCUMENTS
from .eval_set import EvalSet

MEAN_SEED, MEAN_DOCUMENTS, MEAN_POSITIONS = 70_007, 1_000, 5
NOTHING_BESIDE = (
    "A loose pair: no warm start and no control AR are known, so figures that need one are left "
    "out; confidences of claims are by a calibrator that is fitted now, on up to "
    f"{QUICK_DOCUMENTS} other held-out documents."
)


def with_baseline(pair: Pair, source: PairSource, eval_set: EvalSet) -> Pair:
    """The pair with a mean, and with notes of what does not lie beside it.

    One that knows no mean is held against that of training positions of the set.
    """
    if source.paths is not None:
        return pair
    if source.mean is not None:
        note = f"The mean that FVE is held against: {source.mean}."
        return replace(pair, notes=(*pair.notes, note, NOTHING_BESIDE))
    rows = eval_set.sample(pair.target, "train", MEAN_SEED, MEAN_DOCUMENTS, MEAN_POSITIONS)
    note = (
        f"The mean that FVE is held against is that of {len(rows.vectors_ND):,} positions in "
        f"{len(set(rows.doc_ids)):,} training documents of {eval_set.name}, not of what the pair "
        "was trained on."
    )
    return pair.against(mean_of(rows.vectors_ND), note, NOTHING_BESIDE)
