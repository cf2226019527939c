"""The models of one run: its target, and verbalizers and reconstructors, new or from a stage.

With adapters all of them are views of one base in memory; without, each has weights of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, Tokens, read_meta
from nlakit.core.scale import resolve_scale
from nlakit.core.site import Site
from nlakit.data.datasets import training_mean
from nlakit.data.streams import Vectors
from nlakit.engines.local import LocalEngine
from nlakit.models.adapters import adapted, load_adapter
from nlakit.models.families import backbone_of, truncated
from nlakit.models.io import load_backbone, load_head, load_sharded, load_tokenizer
from nlakit.models.precision import compute_dtype
from nlakit.models.quantized import quantize
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

from .config import DevicesConfig, LoraConfig, TrainingSettings

AV_SEED, AR_SEED = 31, 32
SCALE_ROWS, SCALE_PERCENTILE = 20_000, 0.75


@dataclass(frozen=True)
class Basis:
    """What the models of a run are made from.

    Attributes:
        directory: of the target's weights, which need not be there yet.
        name: of the target, as contracts and adapters give it.
        layer: the block after which it is read, counted from 0.
        templates: prompts of the pair.
        injection_scale: norm of vectors in the AV's prompt; None: measured on the activations.
    """

    directory: Path
    name: str
    layer: int
    templates: PromptTemplates
    injection_scale: float | None = None


class PairModels:
    """Loads the models of a run.

    Attributes:
        dtype: of the models in memory. Where it is half precision, trainers keep float32 master
            copies; sharded weights that are trained are float32.
    """

    def __init__(
        self,
        basis: Basis,
        settings: TrainingSettings,
        lora: LoraConfig | None = None,
        devices: DevicesConfig | None = None,
        device: str = "cpu",
    ):
        self.basis, self.settings, self.lora = basis, settings, lora
        self.devices, self.device = devices or DevicesConfig(), device
        self.dtype = compute_dtype(settings.precision, self.device)
        # One base serves all stages of a process, and with adapters all models.
        self.target = cache(self._load_target)

    @property
    def site(self) -> Site:
        """Where the target is read."""
        return Site(self.basis.layer)

    def _load_target(self) -> Target:
        """The model under study, from its files; with adapters, the base of everything else."""
        directory, dtype = self.basis.directory, self.dtype
        if self.lora is None and self.settings.precision == "auto":
            # Nothing is trained on it: activations are as exact as they can be.
            dtype = torch.float32
        return Target(self._load(directory, dtype=dtype), load_tokenizer(directory), self.site)

    def _load(
        self,
        directory: Path,
        num_blocks: int | None = None,
        *,
        trained: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """A model with weights of its own, on the devices; with `num_blocks` it is headless."""
        headless, dtype = num_blocks is not None, dtype or self.dtype
        if self.devices.parallel == "fsdp":
            return load_sharded(
                directory, num_blocks, torch.float32 if trained else dtype,
                device=self.device, headless=headless, trained=trained,
            )  # fmt: skip
        model = load_backbone(directory, num_blocks, dtype, headless=headless)
        bits = self.lora and self.lora.base_bits
        return quantize(model, bits, self.device) if bits else model.to(self.device)

    def new_meta(self, role: Role, tokens: Tokens, vectors_ND: Vectors) -> NlaMeta:
        """The contract of one of a new pair.

        Args:
            vectors_ND: activations of the warm start, of which a scale is measured.
        """
        basis = self.basis
        scale = basis.injection_scale or measured_scale(vectors_ND[:SCALE_ROWS])
        return NlaMeta(
            role=role,
            d_model=vectors_ND.shape[1],
            extraction=Extraction(
                base_model=basis.name, layer_index=basis.layer, injection_scale=scale
            ),
            tokens=tokens,
            prompt_templates=basis.templates,
        )

    def new_verbalizer(self, meta: NlaMeta) -> Verbalizer:
        """An untrained verbalizer."""
        return self._verbalizer(None, meta, frozen=False)

    def verbalizer(self, directory: Path, *, frozen: bool = False) -> Verbalizer:
        """A verbalizer as a stage left it."""
        return self._verbalizer(directory, read_meta(directory), frozen=frozen)

    def _verbalizer(self, directory: Path | None, meta: NlaMeta, *, frozen: bool) -> Verbalizer:
        if self.lora is not None:
            model = self._view(self.target().model, self.lora, AV_SEED, directory, frozen)
        else:
            model = self._load(directory or self.basis.directory, trained=not frozen)
        made = Verbalizer(model, load_tokenizer(self.basis.directory), meta)
        made.recompute = self.devices.gradient_checkpointing
        return made

    def new_reconstructor(self, meta: NlaMeta) -> Reconstructor:
        """An untrained reconstructor: the first blocks up to the site, and the identity."""
        return self._reconstructor(None, meta, frozen=False)

    def reconstructor(self, directory: Path, *, frozen: bool = False) -> Reconstructor:
        """A reconstructor as a stage left it."""
        return self._reconstructor(directory, read_meta(directory), frozen=frozen)

    def _reconstructor(
        self, directory: Path | None, meta: NlaMeta, *, frozen: bool
    ) -> Reconstructor:
        num_blocks = self.site.num_blocks
        if self.lora is not None:
            cut = truncated(backbone_of(self.target().model), num_blocks)
            backbone = self._view(cut, reconstructor_lora(self.lora), AR_SEED, directory, frozen)
        else:
            source = directory or self.basis.directory
            backbone = self._load(source, num_blocks, trained=not frozen)
        tokenizer = load_tokenizer(self.basis.directory)
        made = Reconstructor(backbone, self._head(directory, meta.d_model), tokenizer, meta)
        made.recompute = self.devices.gradient_checkpointing
        return made

    def engine(self, av: Path, ar: Path, rows: int, *, frozen: bool = False) -> LocalEngine:
        """Runs a pair that some stage left, `rows` answers side by side."""
        pair = self.verbalizer(av, frozen=frozen), self.reconstructor(ar, frozen=frozen)
        return LocalEngine(self.target(), *pair, rows)

    def _view(
        self, model: nn.Module, lora: LoraConfig, place: int, directory: Path | None, frozen: bool
    ) -> nn.Module:
        seed = self.settings.seed * 100 + place
        view = adapted(model, lora.rank, lora.alpha, seed, self.basis.name)
        return view if directory is None else load_adapter(view, directory, frozen=frozen)

    def _head(self, directory: Path | None, width: int) -> nn.Linear:
        if directory is not None:
            return load_head(directory, width).to(self.device)
        head = nn.Linear(width, width, bias=False)
        nn.init.eye_(head.weight)
        return head.to(self.device)


def reconstructor_lora(lora: LoraConfig) -> LoraConfig:
    """The adapter of the AR: `alpha / rank` is the AV's."""
    rank = lora.reconstructor_rank or lora.rank
    return lora.model_copy(update={"rank": rank, "alpha": round(lora.alpha * rank / lora.rank)})


def measured_scale(vectors_ND: Tensor) -> float:
    """A round number (two digits) near the 75th percentile of activation norms (method.md §1)."""
    return float(f"{vectors_ND.norm(dim=1).quantile(SCALE_PERCENTILE):.2g}")


def mean_vector(vectors_ND: Vectors) -> Tensor:
    """The plain mean of the normalised vectors: what an FVE of zero predicts."""
    return training_mean(vectors_ND, resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
