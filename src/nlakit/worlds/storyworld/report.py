"""The storyworld's report: a trained pair read against a world whose truth is known.

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

from nlakit.claims.calibration import Calibration
from nlakit.config import FrozenModel
from nlakit.core.fidelity import row_fidelity
from nlakit.data.extraction import ActivationRows, sample_storyworld
from nlakit.engines.base import MAX_NEW_TOKENS, Completion, Sampling
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, fve_interval
from nlakit.evals.claims import ClaimScores, score_claims, verdicts
from nlakit.evals.floors import Floors, measure_floors
from nlakit.evals.private_code import copied, reworded, suspicions_of
from nlakit.evals.probes import ProbeResult, ProbeScore, fit_probes
from nlakit.evals.readings import RowReadings, read_rows, rebuild
from nlakit.models.target import Target
from nlakit.pair.pair import Pair, Reconstruct
from nlakit.storyworld.document import State
from nlakit.storyworld.grammar import document
from nlakit.storyworld.teacher import label
from nlakit.worlds.storyworld.documents import states_of

from .calibrate import calibrator_for, claim_calibration

PROBE_SEED, PROBE_ROWS, PROBE_POSITIONS = 70_001, 12_000, 5
NUM_SAMPLES, TAIL_CHARS = 30, 160

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""


class CheckedClaim(FrozenModel):
    """A claim that was found in an explanation, and whether the world agrees."""

    kind: str
    value: str
    verdict: Literal["true", "false", "uncheckable"]


class Sample(FrozenModel):
    """One reading beside what the teacher, who sees the text, wrote of the same place."""

    doc_id: str
    prefix_tail: str
    """The last characters of the text up to the place."""
    explanation: str
    label: str
    claims: tuple[CheckedClaim, ...]
    fidelity: float
    """1 - mse / variance: 1 perfect, 0 no better than the training mean."""


class Lengths(FrozenModel):
    """How long the explanations are, tags and EOS counted among the tokens."""

    mean_tokens: float
    median_tokens: float
    max_tokens: int
    mean_words: float


class StoryworldReport(FrozenModel):
    """What `nlakit eval storyworld` prints."""

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
    FVE is not above 0."""
    floors: Floors
    claims: ClaimScores
    claims_warm_start: ClaimScores | None
    claims_teacher: ClaimScores
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
    documents: int,
    seed: int,
    temperature: float = 0.0,
    positions_per_document: int = 1,
    probe_rows: int = PROBE_ROWS,
    progress: Progress | None = None,
) -> StoryworldReport:
    """Measure a pair on `documents` held-out documents of `seed`.

    Args:
        probe_rows: training rows for the probes.

    Raises:
        InputError: fewer than 2 documents.
    """
    if documents < 2:
        raise InputError(f"An evaluation needs at least 2 documents, found {documents}.")
    tell = progress or (lambda stage: None)
    tell("reading documents")
    sample = sample_storyworld(pair.target, seed, "heldout", documents, positions_per_document)
    states = states_of(sample.rows)
    tell("training probes")
    probes = measure_probes(pair.target, sample, states, probe_rows)
    tell("verbalizing")
    reading = read_rows(pair, pair.engine, sample.vectors_ND, temperature, seed)
    tell("verbalizing with the warm start")
    warm = None
    if pair.warm_start is not None:
        warm = read_rows(pair, pair.warm_start, sample.vectors_ND, temperature, seed)
    tell("calibrating")
    calibrator = calibrator_for(pair, documents, seed, temperature)
    tell("measuring")
    found = _Measured(
        pair=pair,
        sample=sample,
        states=states,
        reading=reading,
        warm=warm,
        probes=probes,
        calibration=claim_calibration(pair, reading, states, calibrator),
        seed=seed,
        temperature=temperature,
        positions_per_document=positions_per_document,
    )
    return _report(found)


@dataclass(frozen=True)
class _Measured:
    """One evaluation's rows, and what was made of them."""

    pair: Pair
    sample: ActivationRows
    states: Sequence[State]
    reading: RowReadings
    warm: RowReadings | None
    probes: dict[str, ProbeResult]
    calibration: Calibration | None
    seed: int
    temperature: float
    positions_per_document: int

    @property
    def doc_ids(self) -> list[str]:
        return self.sample.rows.column("doc_id").to_pylist()

    def fve(self, reconstruct: Reconstruct, texts: Sequence[str]) -> float:
        """Of the vectors that `reconstruct` makes of `texts`, one a row."""
        vectors_ND = self.sample.vectors_ND
        return self.pair.fve_of(vectors_ND, rebuild(reconstruct, texts)).fve


def measure_probes(
    target: Target, sample: ActivationRows, states: Sequence[State], num_rows: int = PROBE_ROWS
) -> dict[str, ProbeResult]:
    """Probes trained on `num_rows` rows of the training split, tested on `sample`."""
    num_documents = max(1, num_rows // PROBE_POSITIONS)
    train = sample_storyworld(target, PROBE_SEED, "train", num_documents, PROBE_POSITIONS)
    return fit_probes(train.vectors_ND, states_of(train.rows), sample.vectors_ND, states)


def _report(found: _Measured) -> StoryworldReport:
    pair, reading, warm = found.pair, found.reading, found.warm
    doc_ids, labels = found.doc_ids, _labels(found.sample)
    claims = score_claims(reading.texts, found.states, found.probes)
    floors, kept = _floors(found), _paraphrase_kept(found)
    control = _other_fve(found, pair.control_ar)
    return StoryworldReport(
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
        claims=claims.model_copy(update={"ece": found.calibration and found.calibration.ece}),
        claims_warm_start=score_claims(warm.texts, found.states, found.probes) if warm else None,
        claims_teacher=score_claims(labels, found.states, found.probes),
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
                kept={"re-worded": kept},
                control=control,
                copied=_copied(found),
                claims_a_place=(claims.checked + claims.uncheckable) / len(doc_ids),
            )
        ),
        notes=pair.notes,
    )


def _copied(found: _Measured) -> float:
    """Share of the explanations' 4-grams that stand in the text, a place."""
    shares = copied(found.reading.texts, found.sample.rows.column("text").to_pylist())
    return sum(shares) / len(shares)


def _other_fve(found: _Measured, reconstruct: Reconstruct | None) -> float | None:
    """FVE of the explanations read by another AR; None when it was not kept."""
    return None if reconstruct is None else found.fve(reconstruct, found.reading.texts)


def _paraphrase_kept(found: _Measured) -> float | None:
    texts = [reworded(text, row) for row, text in enumerate(found.reading.texts)]
    fve = found.reading.result.fve
    return found.fve(found.pair.engine.reconstruct, texts) / fve if fve > 0 else None


def _floors(found: _Measured) -> Floors:
    pair, vectors_ND = found.pair, found.sample.vectors_ND
    zero_1D = torch.zeros(1, vectors_ND.shape[1])
    nothing = pair.engine.verbalize(zero_1D, Sampling(max_new_tokens=MAX_NEW_TOKENS))[0][0].text
    return measure_floors(
        pair.rebuild,
        vectors_ND,
        found.reading.h_hat_ND,
        found.doc_ids,
        pair.mean_D,
        pair.scale,
        nothing,
        found.seed,
    )


def _labels(sample: ActivationRows) -> list[str]:
    columns = (sample.rows.column(name).to_pylist() for name in ("seed", "index", "char_end"))
    return [
        label(document(seed, index), char_end).text
        for seed, index, char_end in zip(*columns, strict=True)
    ]


def _lengths(completions: Sequence[Completion]) -> Lengths:
    tokens = torch.tensor([len(each.ids) for each in completions], dtype=torch.float64)
    words = sum(len(each.text.split()) for each in completions)
    return Lengths(
        mean_tokens=tokens.mean().item(),
        median_tokens=tokens.quantile(0.5).item(),
        max_tokens=int(tokens.max()),
        mean_words=words / len(completions),
    )


def _samples(found: _Measured, labels: list[str]) -> tuple[Sample, ...]:
    texts, fidelity_N = found.reading.texts, row_fidelity(found.reading.errors)
    picked = random.Random(found.seed).sample(range(len(texts)), min(NUM_SAMPLES, len(texts)))
    rows = found.sample.rows.select(["doc_id", "text"]).to_pylist()
    return tuple(
        Sample(
            doc_id=rows[row]["doc_id"],
            prefix_tail=rows[row]["text"][-TAIL_CHARS:],
            explanation=texts[row],
            label=labels[row],
            claims=tuple(
                CheckedClaim(kind=claim.kind, value=claim.value, verdict=verdict)
                for claim, verdict in verdicts(texts[row], found.states[row])
            ),
            fidelity=fidelity_N[row].item(),
        )
        for row in sorted(picked)
    )
