"""A released pair, which is no more than an AV and an AR, as something to measure.

It says neither what the mean activation of its target is, which every FVE is held against, nor how
far its claims can be believed. What it does not say is measured in the storyworld, and said.
"""

from __future__ import annotations

import math
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from nlakit.contract import read_meta
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.data.extraction import sample_storyworld
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.pair.load import PairSource
from nlakit.pair.load import load_pair as load_models
from nlakit.worlds.storyworld.calibrate import QUICK_DOCUMENTS

from .pair import Pair, weight_hashes

MEAN_SEED, MEAN_DOCUMENTS, MEAN_POSITIONS = 70_007, 1_000, 5
NOTHING_BESIDE = (
    "A loose pair: no warm start and no control AR are known, so figures that need one are left "
    "out; confidences of claims are by a calibrator that is fitted now, on up to "
    f"{QUICK_DOCUMENTS} other held-out documents."
)


def load_loose(name: str, source: PairSource, mean: Path | None = None) -> Pair:
    """Read a pair from its parts, for any evaluation of the storyworld.

    Args:
        name: what it is called in reports.
        mean: file with mean and variance of training vectors (`models.pair.read_baseline`); None:
            the mean is taken over places of the storyworld's training split.

    Raises:
        ContractError, CheckpointError: a part cannot be used, or belongs to another pair.
        InputError: the mean is of another width or scale than the pair's.
    """
    found = load_models(source, mean)
    scale = resolve_scale(read_meta(source.ar).extraction.mse_scale, found.card.d_model)
    if mean is None:
        mean_D, note = _measured_mean(found.target, scale)
    else:
        mean_D, note = _given_mean(found.mean_D, scale, mean)
    return Pair(
        name=name,
        target=found.target,
        engine=LocalEngine(found.target, found.verbalizer, found.reconstructor),
        mean_D=mean_D,
        scale=scale,
        weights={
            f"{part}/{file}": sha256
            for part, directory in source._asdict().items()
            for file, sha256 in weight_hashes(directory).items()
        },
        notes=(note, NOTHING_BESIDE),
    )


def _measured_mean(target: Target, scale: float | None) -> tuple[Float[Tensor, " D"], str]:
    rows = sample_storyworld(target, MEAN_SEED, "train", MEAN_DOCUMENTS, MEAN_POSITIONS)
    mean_D = to_norm(rows.vectors_ND.double(), scale).mean(dim=0).float()
    note = (
        f"The mean that FVE is held against is that of {len(rows.vectors_ND):,} places in "
        f"{MEAN_DOCUMENTS:,} training documents of the storyworld, not of what the pair was "
        "trained on."
    )
    return mean_D, note


def _given_mean(
    mean_D: Float[Tensor, " D"], scale: float | None, path: Path
) -> tuple[Float[Tensor, " D"], str]:
    """A mean at norm √d_model, brought to the pair's scale."""
    if scale is None:
        raise InputError(
            f"{path} holds the mean of vectors of one norm; this pair compares raw ones "
            "(mse_scale is null). Leave out --mean: it is then measured."
        )
    return mean_D * (scale / math.sqrt(len(mean_D))), f"The mean that FVE is held against: {path}."
