"""The report of a pair that reads a released model: no truth is known, so fidelity and form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nlakit.config import FrozenModel
from nlakit.data.extraction import ActivationRows
from nlakit.engines.base import Sampling
from nlakit.pair.pair import Pair

from .bootstrap import Interval, fve_interval
from .floors import Floors, measure_floors
from .readings import read_rows, rebuild


class CheckpointReport(FrozenModel):
    """What `nlakit train` writes beside such a pair. Its figures are over the held-out rows."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_checkpoint_report"] = "nla_checkpoint_report"
    nla: str
    documents: int
    rows: int
    fve: float
    """1 - E‖h-ĥ‖² / E‖h-h̄‖² of normalised vectors, h̄ the plain mean of the training split's."""
    fve_interval: Interval
    """95 % bootstrap interval of `fve`, by document."""
    variance: float
    """The denominator, per component."""
    fve_warm_start: float | None
    fve_frozen_ar: float | None
    """The final AV's explanations read by the warm-started AR."""
    floors: Floors
    mean_tokens: float
    extraction_rate: float = Field(ge=0, le=1)
    """Share of answers with both tags."""


def evaluate_checkpoint(
    pair: Pair, sample: ActivationRows, max_new_tokens: int
) -> CheckpointReport:
    """Read held-out rows greedily and measure what is kept of them.

    Raises:
        InputError: one document has more than half of the rows.
    """
    vectors_ND, documents = sample.vectors_ND, sample.rows.column("doc_id").to_pylist()
    reading = read_rows(pair, pair.engine, vectors_ND, 0.0, 0, max_new_tokens)
    warm = pair.warm_start
    warm_fve = frozen_fve = None
    if warm is not None:
        warm_fve = read_rows(pair, warm, vectors_ND, 0.0, 0, max_new_tokens).result.fve
        frozen_fve = pair.fve_of(vectors_ND, rebuild(warm.reconstruct, reading.texts)).fve
    zero_1D = vectors_ND.new_zeros(1, vectors_ND.shape[1])
    nothing = pair.engine.verbalize(zero_1D, Sampling(max_new_tokens=max_new_tokens))[0][0].text
    return CheckpointReport(
        nla=pair.name,
        documents=len(set(documents)),
        rows=len(documents),
        fve=reading.result.fve,
        fve_interval=fve_interval(reading.errors.mse_N, reading.errors.variance_N, documents),
        variance=reading.result.variance,
        fve_warm_start=warm_fve,
        fve_frozen_ar=frozen_fve,
        floors=measure_floors(
            pair.rebuild,
            vectors_ND,
            reading.h_hat_ND,
            documents,
            pair.mean_D,
            pair.scale,
            nothing,
        ),
        mean_tokens=sum(len(each.ids) for each in reading.completions) / len(documents),
        extraction_rate=sum(each.closed for each in reading.completions) / len(documents),
    )
