"""The report of a pair: fidelity beside its floors, and truth where somebody can check claims.

Every figure is over the rows of `documents` held-out documents of `seed` (the training split cannot
hold them, whatever the seeds) unless its own field says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from nlakit.claim import Verdict
from nlakit.claims.calibration import Calibration
from nlakit.claims.system import ClaimSystem
from nlakit.config import FrozenModel
from nlakit.core.fidelity import row_fidelity
from nlakit.engines.base import MAX_NEW_TOKENS, Completion, Engine, Sampling
from nlakit.pair.pair import Pair, Reconstruct

from .bootstrap import Interval, fve_interval
from .claims import ClaimScores, score_claims, verdicts
from .confidence import calibrator_for, claim_calibration
from .eval_set import EvalRows, EvalSet
from .floors import Floors, measure_floors
from .private_code import REWORDED, claims_a_place, copied, suspicions_of
from .probes import PROBE_ROWS, PROBE_SEED, ProbeResult, ProbeScore, measure_probes
from .readings import RowReadings, read_rows, rebuild
from .rows import check_documents

NUM_SAMPLES, TAIL_CHARS = 30, 160

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""


class CheckedClaim(FrozenModel):
    """A claim that was found in an explanation, and whether it is true."""

    kind: str
    value: str
    verdict: Verdict


class Sample(FrozenModel):
    """One reading beside what the teacher, who sees the text, wrote of the same place."""

    doc_id: str
    prefix_tail: str
    """The last characters of the text up to the place."""
    explanation: str
    label: str | None
    claims: tuple[CheckedClaim, ...]
    fidelity: float
    """1 - mse / variance: 1 perfect, 0 no better than the training mean."""


class Lengths(FrozenModel):
    """How long the explanations are, tags and EOS counted among the tokens."""

    mean_tokens: float
    median_tokens: float
    max_tokens: int
    mean_words: float


class PairReport(FrozenModel):
    """What `nlakit eval storyworld` and `nlakit eval corpus` print."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_report"] = "nla_report"
    nla: str
    documents: int
    positions_per_document: int
    rows: int
    """Places read; every FVE and claim figure is over these."""
    seed: int
    temperature: float
    fve: float
    """1 - E‖h-ĥ‖² / E‖h-h̄‖² of normalised vectors, h̄ the plain mean of the training split's."""
    fve_interval: Interval
    """95 % bootstrap interval of `fve`, by document."""
    fve_renormalized_mean: float
    """The same against the re-normalised mean: a larger denominator, so a higher score."""
    mse: float
    variance: float
    """The canonical denominator, per component."""
    fve_warm_start: float | None
    """Warm-started AV and AR, on the same rows; None when the pair has no `warm_start/`."""
    fve_frozen_ar: float | None
    """The final AV's explanations read by the warm-started AR."""
    fve_control_ar: float | None = None
    """The same, read by an AR that was trained on labels only, as long as the pair's own was in
    all; None when the pair has no `control_ar/`."""
    paraphrase_kept: float | None = None
    """FVE of the re-worded explanations / FVE: same claims, other order and words. None where the
    FVE is not above 0, or nobody can put the claims in other words."""
    floors: Floors
    claims: ClaimScores | None
    """None where nobody can check a claim."""
    claims_warm_start: ClaimScores | None
    claims_teacher: ClaimScores | None
    """The labels of the same places: what the checker makes of a teacher who sees the text."""
    calibration: Calibration | None = None
    """Of the claims' confidences; `claims.ece` is from here."""
    probes: dict[str, ProbeScore]
    """Tested on the same rows, where the fact is known; `num_test` says on how many."""
    probe_seed: int
    probe_train_rows: int
    """Rows of the training split that the probes learned from."""
    lengths: Lengths
    extraction_rate: float = Field(ge=0, le=1)
    """Share of answers with both tags."""
    samples: tuple[Sample, ...]
    weights: dict[str, str] = {}
    """SHA-256 of every weight file of the pair, by its path: whose report this is."""
    suspicions: tuple[str, ...] = ()
    """Ways in which the pair seems to cheat, each with the number that says so."""
    notes: tuple[str, ...] = ()
    """What the pair did not say and was measured, or had to be left out."""


def evaluate(
    pair: Pair,
    eval_set: EvalSet,
    documents: int,
    seed: int,
    temperature: float = 0.0,
    positions_per_document: int = 1,
    probe_rows: int = PROBE_ROWS,
    progress: Progress | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> PairReport:
    """Measure a pair on `documents` held-out documents of `seed`.

    Args:
        probe_rows: training rows for the probes.
        max_new_tokens: of an explanation, at most.

    Raises:
        InputError: fewer than 2 documents.
    """
    check_documents(documents)
    tell = progress or (lambda stage: None)

    def read_by(engine: Engine) -> RowReadings:
        return read_rows(pair, engine, sample.vectors_ND, temperature, seed, max_new_tokens)

    tell("reading documents")
    sample = eval_set.sample(pair.target, "heldout", seed, documents, positions_per_document)
    tell("training probes")
    probes = measure_probes(pair.target, eval_set, sample, probe_rows)
    tell("verbalizing")
    reading = read_by(pair.engine)
    tell("verbalizing with the warm start")
    warm = None if pair.warm_start is None else read_by(pair.warm_start)
    tell("calibrating")
    calibration = _calibration(pair, eval_set, sample, reading, seed, temperature)
    tell("measuring")
    found = _Measured(
        pair=pair,
        eval_set=eval_set,
        sample=sample,
        reading=reading,
        warm=warm,
        probes=probes,
        calibration=calibration,
        seed=seed,
        temperature=temperature,
        positions_per_document=positions_per_document,
    )
    return _report(found)


@dataclass(frozen=True)
class _Measured:
    """One evaluation's rows, and what was made of them."""

    pair: Pair
    eval_set: EvalSet
    sample: EvalRows
    reading: RowReadings
    warm: RowReadings | None
    probes: dict[str, ProbeResult]
    calibration: Calibration | None
    seed: int
    temperature: float
    positions_per_document: int

    @property
    def system(self) -> ClaimSystem:
        return self.eval_set.claims

    def scores(self, texts: Sequence[str] | None) -> ClaimScores | None:
        """Truth of an explanation of each row; None without them, or where nobody can check."""
        if texts is None or self.sample.states is None:
            return None
        return score_claims(texts, self.sample.states, self.system, self.probes)

    def fve(self, reconstruct: Reconstruct, texts: Sequence[str]) -> float:
        """Of the vectors that `reconstruct` makes of `texts`, one a row."""
        vectors_ND = self.sample.vectors_ND
        return self.pair.fve_of(vectors_ND, rebuild(reconstruct, texts)).fve


def _calibration(
    pair: Pair,
    eval_set: EvalSet,
    sample: EvalRows,
    reading: RowReadings,
    seed: int,
    temperature: float,
) -> Calibration | None:
    """Of the claims' confidences; None where nobody can check a claim."""
    if sample.states is None:
        return None
    documents = len(set(sample.doc_ids))
    calibrator = calibrator_for(pair, eval_set, documents, seed, temperature)
    return claim_calibration(pair, reading, sample.states, eval_set.claims, calibrator)


def _report(found: _Measured) -> PairReport:
    pair, reading, warm = found.pair, found.reading, found.warm
    doc_ids, reader = found.sample.doc_ids, found.eval_set.reader
    labels = None if reader is None else reader.labels(found.sample)
    claims = found.scores(reading.texts)
    if claims is not None and found.calibration is not None:
        claims = claims.model_copy(update={"ece": found.calibration.ece})
    floors, kept = _floors(found), _paraphrase_kept(found)
    control = _other_fve(found, pair.control_ar)
    return PairReport(
        nla=pair.name,
        documents=len(set(doc_ids)),
        positions_per_document=found.positions_per_document,
        rows=len(doc_ids),
        seed=found.seed,
        temperature=found.temperature,
        fve=reading.result.fve,
        fve_interval=fve_interval(reading.errors.mse_N, reading.errors.variance_N, doc_ids),
        fve_renormalized_mean=reading.result.fve_renormalized_mean,
        mse=reading.result.mse,
        variance=reading.result.variance,
        fve_warm_start=warm.result.fve if warm else None,
        fve_frozen_ar=_other_fve(found, pair.warm_start.reconstruct if pair.warm_start else None),
        fve_control_ar=control,
        paraphrase_kept=kept,
        floors=floors,
        claims=claims,
        claims_warm_start=found.scores(warm.texts if warm else None),
        claims_teacher=found.scores(labels),
        calibration=found.calibration,
        probes={kind: result.score for kind, result in found.probes.items()},
        probe_seed=PROBE_SEED,
        probe_train_rows=max((r.score.num_train for r in found.probes.values()), default=0),
        lengths=_lengths(reading.completions),
        extraction_rate=sum(each.closed for each in reading.completions) / len(doc_ids),
        samples=_samples(found, labels),
        weights=pair.weights,
        suspicions=tuple(
            suspicions_of(
                fve=reading.result.fve,
                other=floors.shuffled,
                kept={REWORDED: kept},
                control=control,
                copied=_copied(found),
                claims_a_place=claims_a_place(reading.texts, found.system),
            )
        ),
        notes=pair.notes,
    )


def _copied(found: _Measured) -> float:
    """Share of the explanations' 4-grams that stand in the text, a place."""
    shares = copied(found.reading.texts, found.sample.prefixes)
    return sum(shares) / len(shares)


def _other_fve(found: _Measured, reconstruct: Reconstruct | None) -> float | None:
    """FVE of the explanations read by another AR; None when it was not kept."""
    return None if reconstruct is None else found.fve(reconstruct, found.reading.texts)


def _paraphrase_kept(found: _Measured) -> float | None:
    reword, fve = found.system.reword, found.reading.result.fve
    if reword is None or fve <= 0:
        return None
    texts = [reword(text, row) for row, text in enumerate(found.reading.texts)]
    return found.fve(found.pair.engine.reconstruct, texts) / fve


def _floors(found: _Measured) -> Floors:
    pair, vectors_ND = found.pair, found.sample.vectors_ND
    zero_1D = torch.zeros(1, vectors_ND.shape[1])
    nothing = pair.engine.verbalize(zero_1D, Sampling(max_new_tokens=MAX_NEW_TOKENS))[0][0].text
    return measure_floors(
        pair.rebuild,
        vectors_ND,
        found.reading.h_hat_ND,
        found.sample.doc_ids,
        pair.mean_D,
        pair.scale,
        nothing,
        found.seed,
    )


def _lengths(completions: Sequence[Completion]) -> Lengths:
    tokens = torch.tensor([len(each.ids) for each in completions], dtype=torch.float64)
    words = sum(len(each.text.split()) for each in completions)
    return Lengths(
        mean_tokens=tokens.mean().item(),
        median_tokens=tokens.quantile(0.5).item(),
        max_tokens=int(tokens.max()),
        mean_words=words / len(completions),
    )


def _samples(found: _Measured, labels: list[str] | None) -> tuple[Sample, ...]:
    texts, fidelity_N = found.reading.texts, row_fidelity(found.reading.errors)
    picked = random.Random(found.seed).sample(range(len(texts)), min(NUM_SAMPLES, len(texts)))
    return tuple(
        Sample(
            doc_id=found.sample.doc_ids[row],
            prefix_tail=found.sample.prefixes[row][-TAIL_CHARS:],
            explanation=texts[row],
            label=None if labels is None else labels[row],
            claims=_checked(found, row),
            fidelity=fidelity_N[row].item(),
        )
        for row in sorted(picked)
    )


def _checked(found: _Measured, row: int) -> tuple[CheckedClaim, ...]:
    if found.sample.states is None:
        return ()
    judged = verdicts(found.reading.texts[row], found.sample.states[row], found.system)
    return tuple(
        CheckedClaim(kind=claim.kind, value=claim.value, verdict=verdict)
        for claim, verdict in judged
    )
