"""A pair of adapters on one base in memory: the target, the AV and the AR share its weights.

Three merged models take nearly three times the memory. What PEFT's plain LoRA over all matrices of
the blocks is not (other options, other matrices, an adapter of another base) is merged instead
(`models.lora`), which says the same.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nlakit.contract import NlaMeta, read_meta, verify
from nlakit.core.site import Site
from nlakit.models.adapters import adapted, load_adapter
from nlakit.models.configs import load_config
from nlakit.models.families import backbone_of, cut_config, truncated
from nlakit.models.io import load_head, load_tokenizer
from nlakit.models.lora import ADAPTER_NAME, PREFIX, adapter_state, open_checkpoint, plain_rank
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

from .source import PairSource


def on_one_base(source: PairSource, target: Target) -> tuple[Verbalizer, Reconstructor] | None:
    """The pair as views of a target in memory; None where its parts have to be merged.

    Raises:
        ContractError: `nla_meta.yaml` and the tokenizer or config differ.
        CheckpointError: an adapter's files cannot be read, or hold what LoRA cannot be.
    """
    if importlib.util.find_spec("peft") is None:
        return None
    av, ar = read_meta(source.av), read_meta(source.ar)
    cut = truncated(backbone_of(target.model), Site(ar.extraction.layer_index).num_blocks)
    verbalizer = _view(target.model, source.av, source.target)
    reconstructor = _view(cut, source.ar, source.target)
    if verbalizer is None or reconstructor is None:
        return None
    head = load_head(source.ar, ar.d_model).to(target.model.device)
    return (
        Verbalizer(verbalizer, _tokenizer(source.av, source.target, av), av),
        Reconstructor(reconstructor, head, _tokenizer(source.ar, source.target, ar), ar),
    )


def _view(model: Any, directory: Path, base: Path) -> Any:
    """`model` with the adapter of a directory, frozen; None where that is not plain LoRA over all
    of its matrices."""
    plain = plain_rank(directory)
    if plain is None:
        return None
    view = adapted(model, plain.rank, plain.alpha, 0, base.name)
    wanted = {name: tuple(each.shape) for name, each in adapter_state(view).items()}
    return load_adapter(view, directory, frozen=True) if wanted == _shapes(directory) else None


def _shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Of an adapter's tensors, no weight being read; none where the file is not one."""
    try:
        with safe_open(str(directory / ADAPTER_NAME), framework="pt") as file:
            names = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return {}
    return {name.removeprefix(PREFIX): tuple(shape) for name, shape in names.items()}


def _tokenizer(directory: Path, base: Path, meta: NlaMeta) -> Any:
    """The adapter's own tokenizer or its base's, held against the contract as a merged model's."""
    parts = open_checkpoint(directory, base)
    tokenizer, config = load_tokenizer(parts.tokenizer), load_config(parts.weights)
    if meta.role == "ar":
        config = cut_config(config, Site(meta.extraction.layer_index).num_blocks)
    verify(meta, tokenizer, config, meta.role)
    return tokenizer
