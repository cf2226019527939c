"""One way to load a pair: an NLA's directory or its parts, on any device, in any precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.card import CARD_NAME, NlaCard, read_card
from nlakit.claims.confidence import ClaimConfidence
from nlakit.contract import NlaMeta, read_meta
from nlakit.core.fidelity import Baseline
from nlakit.core.scale import resolve_scale
from nlakit.engines.local import LocalEngine
from nlakit.errors import CheckpointError, InputError
from nlakit.models.configs import load_config
from nlakit.models.fingerprint import target_fingerprint
from nlakit.models.lora import open_checkpoint
from nlakit.models.placement import AUTO, ON_CPU, Placement, placement
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.in_memory import bundled_for, check_model, is_model, own_directory, wrap
from nlakit.pair.one_base import on_one_base
from nlakit.pair.pair import Pair
from nlakit.pair.source import (
    InMemory,
    PairSource,
    comparison_parts,
    find_pair,
    pair_hashes,
)
from nlakit.registry import CONTROL_AR, WARM_START, PairPaths

if TYPE_CHECKING:
    # Importing the first loads what only training needs.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNRELATED = 2.0
"""Mean squared error per component between unrelated vectors of norm √d_model: `2 (1 - 0)`."""


class Models(NamedTuple):
    """The three of a pair, on one device."""

    target: Target
    verbalizer: Verbalizer
    reconstructor: Reconstructor


def load(
    path: str | Path | None = None,
    *,
    av: str | Path | None = None,
    ar: str | Path | None = None,
    target: str | Path | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    mean: str | Path | None = None,
    device: str | torch.device = AUTO,
    dtype: str | torch.dtype = AUTO,
) -> Pair:
    """Load the NLA in the directory `path`; None or "bundled" is the one in the package.

    Or load a released pair from its parts, each a directory or a name on the Hugging Face hub.

    Args:
        av, ar: the pair; full weights, or LoRA adapters for the target.
        target: the model it reads; None: the one beside the pair, or that its contract names. A
            model of Hugging Face transformers that is in memory is read as it lies there; without
            `path` the NLA of the package that was trained on its weights is taken.
        tokenizer: of a target that is in memory.
        mean: safetensors with the `mean` and the `variance` of training vectors; None: the one
            beside the pair. Without any no fidelity can be given, and the cosine takes its place.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA, else MPS, else the CPU, and
            that of a target in memory.
        dtype: of the weights in memory, as "bfloat16"; "auto" is float32 on a CPU, and on an
            accelerator each checkpoint's own.

    Raises:
        InputError: there is no such directory, both an NLA and parts were given, or this machine
            has no such device.
        CheckpointError: a part is missing, corrupt, or belongs to another pair.
        ContractError: a part's `nla_meta.yaml` and its tokenizer or config differ.
    """
    if not is_model(target):
        if tokenizer is not None:
            raise InputError("tokenizer belongs to a target that is in memory. Leave it out.")
        source = find_pair(path, av=av, ar=ar, target=target, mean=mean)  # pyright: ignore
        return load_source(source, placement(device, dtype))
    check_model(target, tokenizer)
    where = placement(target.device if device == AUTO else device, dtype)  # pyright: ignore
    if (path, av, ar) == (None, None, None):
        path = bundled_for(target, tokenizer)
    held = InMemory(own_directory(target))
    source = find_pair(path, av=av, ar=ar, mean=mean, in_memory=held)
    return load_source(source, where, held=(target, tokenizer))


def load_source(
    source: PairSource,
    where: Placement = ON_CPU,
    *,
    comparisons: bool = False,
    held: tuple[Any, Any] | None = None,
) -> Pair:
    """Load the pair at `source`; that its parts belong together is checked before a weight is read.

    Args:
        comparisons: with what evaluations compare it with, and the hashes of all its weights.
        held: a target that is in memory, and its tokenizer.

    Raises:
        CheckpointError, ContractError: a part cannot be used, or belongs to another pair.
    """
    card, baseline = read_facts(source)
    own = None if held is None else wrap(*held, card.layer, card.d_model)
    models = load_models(source, card.layer, where, own)
    pair = Pair(
        LocalEngine(*models),
        models.target,
        card,
        torch.zeros(card.d_model) if baseline is None else baseline.mean_D,
        None if source.paths is None else ClaimConfidence.load(source.paths.pair),
        notes=other_weights(card, models.target),
    )
    return _with_comparisons(pair, source, where) if comparisons else pair


def load_models(
    source: PairSource, layer: int, where: Placement = ON_CPU, own: Target | None = None
) -> Models:
    """Load the three models of a pair onto a device; adapters of one base share its weights.

    Args:
        own: a target that is there already. Its weights may be others than those of the base, so
            adapters do not share them.

    Raises:
        ContractError, CheckpointError: a part cannot be used.
    """
    target = load_target(source.target, layer, where) if own is None else own
    views = on_one_base(source, target) if own is None else None
    if views is not None:
        return Models(target, *views)
    verbalizer = load_verbalizer(source.av, source.target, where)
    return Models(target, verbalizer, load_reconstructor(source.ar, source.target, where))


def load_target(directory: Path, layer: int, where: Placement) -> Target:
    """Read a target onto a device. Raises as `Target.load`."""
    target = Target.load(directory, layer, where.dtype_of(directory))
    target.model.to(where.device)
    return target


def load_verbalizer(directory: Path, base: Path, where: Placement) -> Verbalizer:
    """Read a verbalizer, or merge an adapter into its base. Raises as `Verbalizer.load`."""
    dtype = where.dtype_of(open_checkpoint(directory, base).weights)
    verbalizer = Verbalizer.load(directory, dtype, base=base)
    verbalizer.model.to(where.device)
    return verbalizer


def load_reconstructor(directory: Path, base: Path, where: Placement) -> Reconstructor:
    """The same for a reconstructor, whose head stays float32 whatever the precision is."""
    dtype = where.dtype_of(open_checkpoint(directory, base).weights)
    reconstructor = Reconstructor.load(directory, dtype, base=base)
    reconstructor.backbone.to(where.device)
    reconstructor.head.to(where.device)
    return reconstructor


def _with_comparisons(pair: Pair, source: PairSource, where: Placement) -> Pair:
    found = replace(pair, weights=pair_hashes(source))
    parts, base = comparison_parts(source), source.target
    if WARM_START in parts:
        warm = parts[WARM_START]
        halves = on_one_base(replace(source, av=warm / "av", ar=warm / "ar"), pair.target) or (
            load_verbalizer(warm / "av", base, where),
            load_reconstructor(warm / "ar", base, where),
        )
        found = replace(found, warm_start=LocalEngine(pair.target, *halves))
    if CONTROL_AR in parts:
        control = load_reconstructor(parts[CONTROL_AR], base, where)
        found = replace(found, control_ar=control.reconstruct)
    return found


# -- card and mean ---------------------------------------------------------------------------------
def read_facts(source: PairSource) -> tuple[NlaCard, Baseline | None]:
    """A pair's card and baseline, no weight of its models being read.

    Raises:
        CheckpointError, ContractError: a part cannot be used, or belongs to another pair.
    """
    av, ar = read_meta(source.av), read_meta(source.ar)
    _check_halves(av, ar)
    own = None if source.paths is None else _own_card(source.paths)
    card, baseline = own or _made_card(source, av), None
    _check_card(source, card, av)
    _check_width(source, card)
    if source.mean is not None:
        is_own = source.paths is not None and source.mean.parent == source.paths.shared
        known = card.variance if is_own and card.baseline == "training_mean" else None
        baseline = read_baseline(source.mean, card.d_model, known)
        measured = {"variance": baseline.variance, "baseline": "training_mean"}
        card = card.model_copy(update=measured)
    return card, baseline


def _own_card(paths: PairPaths) -> NlaCard:
    """The NLA's card; of a row, with its name, and without figures, which are of another pair."""
    card = read_card(paths.shared)
    if paths.pair == paths.shared:
        return card
    row = f"{card.name} {paths.pair.name}"
    return card.model_copy(update={"name": row, "fve": None, "floors": {}})


def _made_card(source: PairSource, av: NlaMeta) -> NlaCard:
    return NlaCard(
        name=source.name or source.av.resolve().name,
        layer=av.extraction.layer_index,
        d_model=av.d_model,
        variance=UNRELATED,
        baseline="none",
        num_training_rows=0,
        provenance={"base_model": av.extraction.base_model or source.target.name},
    )


def read_baseline(path: str | Path, d_model: int, variance: float | None = None) -> Baseline:
    """Read `mean` (d_model numbers) and `variance` (one) from a safetensors file.

    Args:
        variance: where it is known; else it is in the file, or in an `nla.json` beside it.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is missing or corrupt ({error}). Copy it again, or give another mean."
        ) from error
    mean_D, stored = tensors.get("mean"), tensors.get("variance")
    if mean_D is None or mean_D.shape != (d_model,) or not bool(torch.isfinite(mean_D).all()):
        raise CheckpointError(
            f"{path} must hold 'mean' with {d_model} finite numbers, found {_shapes(tensors)}. "
            "It belongs to another pair."
        )
    if variance is None and stored is not None and stored.numel() == 1 and stored.item() > 0:
        variance = stored.item()
    if variance is None and (Path(path).parent / CARD_NAME).is_file():
        variance = read_card(Path(path).parent).variance
    if variance is None:
        raise CheckpointError(
            f"{path} must hold 'variance', one positive number, found {_shapes(tensors)}. "
            "`nlakit doctor --write-mean FILE` makes such a file from texts."
        )
    return Baseline(mean_D.float(), variance)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def other_weights(card: NlaCard, target: Target) -> tuple[str, ...]:
    """A note where the target's weights are not those that the pair was trained on."""
    known = card.target_fingerprint
    found = None if known is None else target_fingerprint(target)
    if found in (None, known):
        return ()
    return (
        f"The target has other weights than the one that {card.name} was trained on: what the "
        "explanations say and how far to believe them was measured on that one. `nlakit doctor` "
        "says how far its activations have moved.",
    )


# -- do the parts belong together? -----------------------------------------------------------------
def _check_halves(av: NlaMeta, ar: NlaMeta) -> None:
    for field, of_av, of_ar in (
        ("d_model", av.d_model, ar.d_model),
        ("extraction.layer_index", av.extraction.layer_index, ar.extraction.layer_index),
        ("extraction.mse_scale", _mse_scale(av), _mse_scale(ar)),
    ):
        if of_av != of_ar:
            raise CheckpointError(
                f"The two belong to different pairs: {field} is {of_av!r} in the AV and {of_ar!r} "
                "in the AR. Give two of one pair."
            )


def _mse_scale(meta: NlaMeta) -> float | None:
    """As a number: √d_model may be written either way."""
    found = resolve_scale(meta.extraction.mse_scale, meta.d_model)
    return None if found is None else round(found, 6)


def _check_card(source: PairSource, card: NlaCard, av: NlaMeta) -> None:
    """Each part may be sound and yet come from another NLA."""
    facts = {
        "width": (av.d_model, card.d_model),
        "layer": (av.extraction.layer_index, card.layer),
    }
    wrong = [
        f"{name} of av and ar {found}, in nla.json {said}"
        for name, (found, said) in facts.items()
        if found != said
    ]
    if wrong:
        raise CheckpointError(
            f"{source.av.parent}: its parts belong to different NLAs: {'; '.join(wrong)}. "
            "Copy the whole directory again."
        )


def _check_width(source: PairSource, card: NlaCard) -> None:
    width = load_config(source.target).hidden_size
    if width != card.d_model:
        raise CheckpointError(
            f"The pair reads vectors of {card.d_model} numbers; activations of {source.target} "
            f"have {width}. Give the target that it was trained on."
        )
