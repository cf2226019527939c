"""A pair as it is measured: target, AV and AR, the AR's rivals, and what scores are held against.

Knows nothing of the storyworld.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.card import MEAN_NAME, read_card
from nlakit.claims.confidence import ClaimConfidence
from nlakit.contract import read_meta
from nlakit.core.fidelity import FveResult, fve
from nlakit.core.scale import resolve_scale
from nlakit.data.shards import file_sha256
from nlakit.engines.base import Completion, Engine, Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import CheckpointError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.registry import CONTROL_AR, ROWS, WARM_START, PairPaths, resolve_pair

from .fidelity import RowErrors, row_errors
from .probes import PROBES_NAME

MEAN_KEY = "mean"
MAX_NEW_TOKENS = 120

Reconstruct = Callable[[list[str]], Tensor]
"""Explanations to vectors, [N, D]."""


@dataclass(frozen=True)
class Pair:
    """What is evaluated.

    Attributes:
        mean_D: plain mean of the training vectors, each brought to `scale`.
        scale: norm at which vectors are compared.
        warm_start: the pair as it was before RL, if it was kept.
        control_ar: an AR that never saw an explanation of the AV, trained on labels as long as the
            pair's own was trained in all, if it was kept.
        confidence: the calibrator that lies beside the pair, if one does.
        notes: what a reader of its figures has to know of how they were made.
    """

    name: str
    target: Target
    engine: Engine
    mean_D: Float[Tensor, " D"]
    scale: float | None
    warm_start: Engine | None = None
    control_ar: Reconstruct | None = None
    confidence: ClaimConfidence | None = None
    weights: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rebuild(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Explanations read by the pair's own AR, on the CPU."""
        return rebuild(self.engine.reconstruct, texts)

    def fve_of(
        self, vectors_ND: Float[Tensor, "N D"], rebuilt_ND: Float[Tensor, "N D"]
    ) -> FveResult:
        """FVE at the pair's scale, against its mean."""
        return fve(vectors_ND, rebuilt_ND, self.mean_D, self.scale)

    def errors_of(
        self, vectors_ND: Float[Tensor, "N D"], rebuilt_ND: Float[Tensor, "N D"]
    ) -> RowErrors:
        """Both terms of FVE for each row."""
        return row_errors(vectors_ND, rebuilt_ND, self.mean_D, self.scale)


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


def load_pair(name: str | Path | None) -> Pair:
    """Read a pair by its name or directory (see `registry.resolve_pair`).

    Raises:
        InputError: there is no such pair.
        ContractError: a part and its tokenizer or config differ.
        CheckpointError: a part is missing or corrupt.
    """
    paths = resolve_pair(name)
    card, meta = read_card(paths.shared), read_meta(paths.pair / "ar")
    target = Target.load(paths.shared / "target", layer=card.layer)
    warm, control = paths.part(WARM_START), paths.part(CONTROL_AR)
    is_row = paths.pair != paths.shared
    return Pair(
        name=f"{card.name} {paths.pair.name}" if is_row else card.name,
        target=target,
        engine=load_engine(target, paths.pair),
        mean_D=load_mean(paths.shared, meta.d_model),
        scale=resolve_scale(meta.extraction.mse_scale, meta.d_model),
        warm_start=load_engine(target, warm) if warm else None,
        control_ar=Reconstructor.load(control).reconstruct if control else None,
        confidence=ClaimConfidence.load(paths.pair),
        weights=pair_hashes(paths),
    )


def load_engine(target: Target, directory: Path) -> LocalEngine:
    """The AV and the AR of a directory, over a target that is already there."""
    verbalizer = Verbalizer.load(directory / "av")
    return LocalEngine(target, verbalizer, Reconstructor.load(directory / "ar"))


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


def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every weight file of a pair, by its path there; its rows are not its own."""
    files = sorted(file for file in directory.rglob("*.safetensors") if file.name != PROBES_NAME)
    names = {path.relative_to(directory): path for path in files}
    return {
        name.as_posix(): file_sha256(path) for name, path in names.items() if name.parts[0] != ROWS
    }


def pair_hashes(paths: PairPaths) -> dict[str, str]:
    """`weight_hashes` of a pair; of a row, its own files and the target's and the mean's."""
    own = weight_hashes(paths.pair)
    for part in (WARM_START, CONTROL_AR):
        directory = paths.part(part)
        found = {} if directory is None else weight_hashes(directory)
        own |= {f"{part}/{name}": sha256 for name, sha256 in found.items()}
    if paths.pair == paths.shared:
        return own
    shared = weight_hashes(paths.shared)
    return own | {name: shared[name] for name in shared if name.startswith(("target/", MEAN_NAME))}


def read_rows(
    pair: Pair,
    engine: Engine,
    vectors_ND: Float[Tensor, "N D"],
    temperature: float,
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> RowReadings:
    """Verbalize and reconstruct each row with `engine`, and hold the two side by side."""
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    completions = [group[0] for group in engine.verbalize(vectors_ND, sampling)]
    h_hat_ND = rebuild(engine.reconstruct, [each.text for each in completions])
    return RowReadings(
        completions,
        h_hat_ND,
        pair.fve_of(vectors_ND, h_hat_ND),
        pair.errors_of(vectors_ND, h_hat_ND),
    )


def rebuild(reconstruct: Callable[[list[str]], Tensor], texts: Sequence[str]) -> Tensor:
    """Explanations as float32 vectors on the CPU, without gradients: [N, D]."""
    with torch.no_grad():
        return reconstruct(list(texts)).float().cpu()
