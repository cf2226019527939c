"""The storyworld's report: a trained pair read against a world whose truth is known.

Every figure is over the rows of `documents` held-out documents of `seed` (the training split cannot
hold them, whatever the seeds) unless its own field says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.card import MEAN_NAME, read_card
from nlakit.config import FrozenModel
from nlakit.contract import read_meta
from nlakit.core.fidelity import FveResult, fve
from nlakit.core.scale import resolve_scale
from nlakit.data.documents import states_of
from nlakit.data.extraction import ActivationRows, sample_storyworld
from nlakit.data.shards import file_sha256
from nlakit.engines.base import Completion, Engine, Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import CheckpointError, InputError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.document import State
from nlakit.storyworld.grammar import document
from nlakit.storyworld.teacher import label

from .bootstrap import Interval, fve_interval
from .claims import ClaimScores, score_claims, verdicts
from .fidelity import RowErrors, row_errors, row_fidelity
from .floors import Floors, measure_floors
from .probes import ProbeResult, ProbeScore, fit_probes

MEAN_KEY = "mean"
MAX_NEW_TOKENS = 120
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
    floors: Floors
    claims: ClaimScores
    claims_warm_start: ClaimScores | None
    claims_teacher: ClaimScores
    """The labels of the same places: what the checker makes of a teacher who sees the text."""
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


@dataclass(frozen=True)
class Pair:
    """What is evaluated.

    Attributes:
        mean_D: plain mean of the training vectors, each brought to `scale`.
        scale: norm at which vectors are compared.
        warm_start: the pair as it was before RL, if it was kept.
    """

    name: str
    target: Target
    engine: Engine
    mean_D: Float[Tensor, " D"]
    scale: float | None
    warm_start: Engine | None = None
    weights: dict[str, str] = field(default_factory=dict)


def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file below a pair's directory, by its path there."""
    files = sorted(directory.rglob("*.safetensors"))
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in files}


def load_pair(directory: str | Path) -> Pair:
    """Read a pair's directory, with the pair before RL in `warm_start/{av,ar}/` if it was kept.

    Raises:
        ContractError: a part and its tokenizer or config differ.
        CheckpointError: a part is missing or corrupt.
    """
    path = Path(directory)
    card, meta = read_card(path), read_meta(path / "ar")
    target = Target.load(path / "target", layer=card.layer)
    warm = path / "warm_start"
    return Pair(
        name=card.name,
        target=target,
        engine=_engine(target, path),
        mean_D=load_mean(path, meta.d_model),
        scale=resolve_scale(meta.extraction.mse_scale, meta.d_model),
        warm_start=_engine(target, warm) if warm.is_dir() else None,
        weights=weight_hashes(path),
    )


def load_mean(directory: str | Path, d_model: int) -> Float[Tensor, " D"]:
    """The training mean of a pair.

    Raises:
        CheckpointError: the file is missing or corrupt, or the mean has another width.
    """
    path = Path(directory) / MEAN_NAME
    try:
        mean_D = load_file(path)[MEAN_KEY].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Is the pair complete?") from error
    if mean_D.shape != (d_model,):
        raise CheckpointError(f"{path}: expected {d_model} numbers, found {tuple(mean_D.shape)}.")
    return mean_D


def evaluate(
    pair: Pair | str | Path,
    documents: int,
    seed: int,
    temperature: float = 0.0,
    positions_per_document: int = 1,
    probe_rows: int = PROBE_ROWS,
    progress: Progress | None = None,
) -> StoryworldReport:
    """Measure a pair on `documents` held-out documents of `seed`.

    Args:
        pair: a loaded pair, or its directory.
        probe_rows: training rows for the probes.

    Raises:
        InputError: fewer than 2 documents.
    """
    if documents < 2:
        raise InputError(f"An evaluation needs at least 2 documents, found {documents}.")
    tell = progress or (lambda stage: None)
    pair = pair if isinstance(pair, Pair) else load_pair(pair)
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
    tell("measuring")
    return _report(
        pair,
        sample,
        states,
        reading,
        warm or None,
        probes,
        seed,
        temperature,
        positions_per_document,
    )


@dataclass(frozen=True)
class RowReadings:
    """Answers for N rows, and what became of each."""

    completions: list[Completion]
    h_hat_ND: Float[Tensor, "N D"]
    result: FveResult
    errors: RowErrors

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.completions]


def read_rows(
    pair: Pair, engine: Engine, vectors_ND: Float[Tensor, "N D"], temperature: float, seed: int
) -> RowReadings:
    """Verbalize and reconstruct each row with `engine`, and hold the two side by side."""
    sampling = Sampling(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    completions = [group[0] for group in engine.verbalize(vectors_ND, sampling)]
    h_hat_ND = _rebuild(engine, [each.text for each in completions])
    return RowReadings(
        completions,
        h_hat_ND,
        fve(vectors_ND, h_hat_ND, pair.mean_D, pair.scale),
        row_errors(vectors_ND, h_hat_ND, pair.mean_D, pair.scale),
    )


def measure_probes(
    target: Target, sample: ActivationRows, states: Sequence[State], num_rows: int = PROBE_ROWS
) -> dict[str, ProbeResult]:
    """Probes trained on `num_rows` rows of the training split, tested on `sample`."""
    num_documents = max(1, num_rows // PROBE_POSITIONS)
    train = sample_storyworld(target, PROBE_SEED, "train", num_documents, PROBE_POSITIONS)
    return fit_probes(train.vectors_ND, states_of(train.rows), sample.vectors_ND, states)


def _engine(target: Target, path: Path) -> LocalEngine:
    verbalizer, reconstructor = Verbalizer.load(path / "av"), Reconstructor.load(path / "ar")
    return LocalEngine(target, verbalizer, reconstructor)


def _rebuild(engine: Engine, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return engine.reconstruct(texts).float().cpu()


def _report(
    pair: Pair,
    sample: ActivationRows,
    states: Sequence[State],
    reading: RowReadings,
    warm: RowReadings | None,
    probes: dict[str, ProbeResult],
    seed: int,
    temperature: float,
    positions_per_document: int,
) -> StoryworldReport:
    doc_ids = sample.rows.column("doc_id").to_pylist()
    labels = _labels(sample)
    return StoryworldReport(
        nla=pair.name,
        documents=len(set(doc_ids)),
        positions_per_document=positions_per_document,
        rows=len(doc_ids),
        seed=seed,
        temperature=temperature,
        fve=reading.result.fve,
        fve_interval=fve_interval(reading.errors.mse_N, reading.errors.variance_N, doc_ids),
        fve_renormalized_mean=reading.result.fve_renormalized_mean,
        mse=reading.result.mse,
        variance=reading.result.variance,
        fve_warm_start=warm.result.fve if warm else None,
        fve_frozen_ar=_frozen_ar_fve(pair, sample, reading),
        floors=_floors(pair, sample, reading, doc_ids, seed),
        claims=score_claims(reading.texts, states),
        claims_warm_start=score_claims(warm.texts, states) if warm else None,
        claims_teacher=score_claims(labels, states),
        probes={kind: result.score for kind, result in probes.items()},
        probe_seed=PROBE_SEED,
        probe_train_rows=max((r.score.num_train for r in probes.values()), default=0),
        lengths=_lengths(reading.completions),
        extraction_rate=sum(each.closed for each in reading.completions) / len(doc_ids),
        samples=_samples(sample, states, reading, labels, seed),
        weights=pair.weights,
    )


def _frozen_ar_fve(pair: Pair, sample: ActivationRows, reading: RowReadings) -> float | None:
    if pair.warm_start is None:
        return None
    rebuilt_ND = _rebuild(pair.warm_start, reading.texts)
    return fve(sample.vectors_ND, rebuilt_ND, pair.mean_D, pair.scale).fve


def _floors(
    pair: Pair, sample: ActivationRows, reading: RowReadings, doc_ids: list[str], seed: int
) -> Floors:
    zero_1D = torch.zeros(1, sample.vectors_ND.shape[1])
    nothing = pair.engine.verbalize(zero_1D, Sampling(max_new_tokens=MAX_NEW_TOKENS))[0][0].text
    return measure_floors(
        lambda texts: _rebuild(pair.engine, texts),
        sample.vectors_ND,
        reading.h_hat_ND,
        doc_ids,
        pair.mean_D,
        pair.scale,
        nothing,
        seed,
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


def _samples(
    sample: ActivationRows,
    states: Sequence[State],
    reading: RowReadings,
    labels: list[str],
    seed: int,
) -> tuple[Sample, ...]:
    texts, fidelity_N = reading.texts, row_fidelity(reading.errors)
    picked = random.Random(seed).sample(range(len(texts)), min(NUM_SAMPLES, len(texts)))
    rows = sample.rows.select(["doc_id", "text"]).to_pylist()
    return tuple(
        Sample(
            doc_id=rows[row]["doc_id"],
            prefix_tail=rows[row]["text"][-TAIL_CHARS:],
            explanation=texts[row],
            label=labels[row],
            claims=tuple(
                CheckedClaim(kind=claim.kind, value=claim.value, verdict=verdict)
                for claim, verdict in verdicts(texts[row], states[row])
            ),
            fidelity=fidelity_N[row].item(),
        )
        for row in sorted(picked)
    )
