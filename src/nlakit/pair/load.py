"""A released pair, wherever its three models lie: as directories, or by name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.card import CARD_NAME, NlaCard, read_card
from nlakit.contract import NlaMeta, read_meta
from nlakit.errors import CheckpointError, ContractError, InputError
from nlakit.models.hub import locate
from nlakit.models.lora import open_checkpoint
from nlakit.models.placement import ON_CPU, Placement
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

UNRELATED = 2.0
"""Mean squared error per component between unrelated vectors of norm √d_model: `2 (1 - 0)`."""


class PairSource(NamedTuple):
    """Local directories of a pair.

    Attributes:
        target: the base model, which LoRA adapters are merged into as well.
    """

    av: Path
    ar: Path
    target: Path


class Baseline(NamedTuple):
    """What knowing nothing reaches.

    Attributes:
        mean_D: mean of the training vectors, each brought to norm √d_model.
        variance: mean of `‖h - mean‖² / d_model` over them.
    """

    mean_D: Tensor
    variance: float


class Pair(NamedTuple):
    """The three models, and a card for them; `mean_D` is zero where none is known."""

    target: Target
    verbalizer: Verbalizer
    reconstructor: Reconstructor
    card: NlaCard
    mean_D: Tensor


def find_pair(av: str | Path, ar: str | Path, target: str | Path | None = None) -> PairSource:
    """Local directories of the three, downloaded where they are names on the hub.

    Args:
        target: None: the base model that the verbalizer's contract names.

    Raises:
        CheckpointError: one of them is neither here nor on the hub.
        ContractError: no target was given, and the contract names none.
    """
    av_path, ar_path = locate(av), locate(ar)
    named = target or read_meta(av_path).extraction.base_model
    if named is None:
        raise ContractError(
            field="extraction.base_model",
            found="nothing",
            expected="the name of the target",
            hint="Give it as --target.",
        )
    return PairSource(av_path, ar_path, locate(named))


class Models(NamedTuple):
    """The three of a pair, on one device."""

    target: Target
    verbalizer: Verbalizer
    reconstructor: Reconstructor


def load_models(source: PairSource, layer: int, where: Placement = ON_CPU) -> Models:
    """Load the three models of a pair onto a device.

    The reconstructor's head stays float32 whatever the precision is.

    Raises:
        ContractError, CheckpointError: a part cannot be used.
    """
    target = Target.load(source.target, layer, where.dtype_of(source.target))
    target.model.to(where.device)
    weights = [open_checkpoint(part, source.target).weights for part in (source.av, source.ar)]
    av_dtype, ar_dtype = map(where.dtype_of, weights)
    verbalizer = Verbalizer.load(source.av, av_dtype, base=source.target)
    verbalizer.model.to(where.device)
    reconstructor = Reconstructor.load(source.ar, ar_dtype, base=source.target)
    reconstructor.backbone.to(where.device)
    reconstructor.head.to(where.device)
    return Models(target, verbalizer, reconstructor)


def load_pair(
    source: PairSource, baseline: str | Path | None = None, where: Placement = ON_CPU
) -> Pair:
    """Load the three models; each one's contract, and that they belong together, is checked first.

    Args:
        baseline: file with `mean` and `variance` (see `read_baseline`); None: fidelities are bare
            cosines, and say so.
        where: device and precision of the models.

    Raises:
        ContractError, CheckpointError: a part cannot be used, or belongs to another pair.
        InputError: the baseline is of another width.
    """
    av, ar = read_meta(source.av), read_meta(source.ar)
    _check_together(av, ar)
    known = None if baseline is None else read_baseline(baseline, av.d_model)
    models = load_models(source, av.extraction.layer_index, where)
    if models.target.d_model != av.d_model:
        raise CheckpointError(
            f"The pair reads vectors of {av.d_model} numbers; activations of {source.target} have "
            f"{models.target.d_model}. Give the target that it was trained on."
        )
    return Pair(
        *models,
        _card(source, av, known),
        torch.zeros(av.d_model) if known is None else known.mean_D,
    )


def read_baseline(path: str | Path, d_model: int) -> Baseline:
    """Read `mean` (d_model numbers) and `variance` (one) from a safetensors file.

    The variance may also stand in an `nla.json` beside it, as in an NLA's directory.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}).") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    mean_D, variance = tensors.get("mean"), tensors.get("variance")
    if mean_D is None or mean_D.shape != (d_model,) or not bool(torch.isfinite(mean_D).all()):
        raise InputError(f"{path} must hold 'mean' with {d_model} finite numbers, found {shapes}.")
    if variance is not None and variance.numel() == 1 and variance.item() > 0:
        return Baseline(mean_D.float(), variance.item())
    if (Path(path).parent / CARD_NAME).is_file():
        return Baseline(mean_D.float(), read_card(Path(path).parent).variance)
    raise InputError(
        f"{path} must hold 'variance', one positive number, found {shapes}. "
        "`nlakit doctor --write-mean FILE` makes such a file from texts."
    )


def _check_together(av: NlaMeta, ar: NlaMeta) -> None:
    for field, of_av, of_ar in (
        ("d_model", av.d_model, ar.d_model),
        ("extraction.layer_index", av.extraction.layer_index, ar.extraction.layer_index),
        ("extraction.mse_scale", av.extraction.mse_scale, ar.extraction.mse_scale),
    ):
        if of_av != of_ar:
            raise CheckpointError(
                f"The two belong to different pairs: {field} is {of_av!r} in the AV and {of_ar!r} "
                "in the AR. Give two of one pair."
            )


def _card(source: PairSource, av: NlaMeta, known: Baseline | None) -> NlaCard:
    return NlaCard(
        name=source.av.resolve().name,
        layer=av.extraction.layer_index,
        d_model=av.d_model,
        variance=UNRELATED if known is None else known.variance,
        baseline="none" if known is None else "training_mean",
        num_training_rows=0,
        provenance={"base_model": av.extraction.base_model or source.target.name},
    )
