"""Which latents of one site a behaviour depends on: effects, faithfulness and completeness.

A behaviour is a set of prompts, each with the token that is right and one that is wrong; the metric
is the difference of their logits. Nodes are the latents of an autoencoder at one site, and its
error; what is left out of a circuit is put at its mean over reference texts. Edges between sites
are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.circuits import faithfulness, node_effects
from nlakit.errors import InputError
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .measure import check_fits
from .splice import padded, run_target
from .texts import Passage

SIZES = (0, 1, 2, 5, 10, 20, 50, 100, 200)


class Prompt(NamedTuple):
    """A text whose last token is the right one, and the wrong one beside it.

    The metric is read one position before the end, where the model has not seen it.
    """

    passage: Passage
    wrong: int


class CircuitPoint(FrozenModel):
    """The circuit of the `nodes` latents with the largest effects."""

    nodes: int
    faithfulness: float | None
    """All other latents at their means, the error as it is."""
    completeness: float | None
    """The same of everything but the circuit."""


class Effect(FrozenModel):
    """A latent's effect on the metric when it is put at its mean."""

    latent: int
    effect: float
    label: str | None = None


class CircuitReport(FrozenModel):
    """A behaviour at one site."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_circuit"] = "sae_circuit"
    sae: str
    behaviour: str
    prompts: int
    metric: float
    """Mean logit difference of the model."""
    metric_without: float
    """With every latent at its mean, the error kept."""
    error_effect: float
    """Of putting the error at its mean."""
    effects: tuple[Effect, ...]
    """The largest ones."""
    curve: tuple[CircuitPoint, ...]


@dataclass(frozen=True)
class _Nodes:
    """Clean values at the read positions of all prompts, and the means."""

    latents_NM: Tensor
    error_ND: Tensor
    mean_M: Tensor
    mean_error_D: Tensor


def circuit(
    sae: SparseAutoencoder,
    target: Target,
    prompts: Sequence[Prompt],
    reference_ND: Tensor,
    *,
    name: str,
    behaviour: str,
    shown: int = 40,
    steps: int = 10,
) -> CircuitReport:
    """Find the latents that a behaviour depends on, and how few of them do.

    Args:
        reference_ND: raw activations of the site, from which the means are taken.

    Raises:
        InputError: no prompt, or an autoencoder of another site.
    """
    check_fits(sae, target)
    if not prompts:
        raise InputError("There is no prompt to find a circuit for.")
    target.model.requires_grad_(False)
    metric = _Metric(sae, target, prompts)
    nodes = _nodes(sae, metric.activations(), reference_ND)
    patch = [nodes.mean_M.expand_as(nodes.latents_NM), nodes.mean_error_D.expand_as(nodes.error_ND)]
    clean = [nodes.latents_NM, nodes.error_ND]
    by_latent, by_error = node_effects(metric, clean, patch, steps)
    effects_M = by_latent.sum(0)
    order = effects_M.abs().argsort(descending=True)
    whole, empty = metric.mean(clean), metric.mean([patch[0], nodes.error_ND])

    def kept(chosen: Tensor) -> float:
        mask_M = torch.zeros(len(effects_M), dtype=torch.bool)
        mask_M[chosen] = True
        latents_NM = torch.where(mask_M, nodes.latents_NM, patch[0])
        return metric.mean([latents_NM, nodes.error_ND])

    sizes = [size for size in SIZES if size < len(order)] + [len(order)]
    return CircuitReport(
        sae=name,
        behaviour=behaviour,
        prompts=len(prompts),
        metric=whole,
        metric_without=empty,
        error_effect=by_error.sum().item(),
        effects=tuple(Effect(latent=i, effect=effects_M[i].item()) for i in order[:shown].tolist()),
        curve=tuple(
            CircuitPoint(
                nodes=size,
                faithfulness=faithfulness(kept(order[:size]), empty, whole),
                completeness=faithfulness(kept(order[size:]), empty, whole),
            )
            for size in sizes
        ),
    )


class _Metric:
    """Mean logit difference over prompts, as a function of latents and error at read positions."""

    def __init__(self, sae: SparseAutoencoder, target: Target, prompts: Sequence[Prompt]) -> None:
        self.sae, self.target = sae, target
        passages = [each.passage for each in prompts]
        self.texts = padded(passages, target.model.device)
        counts = self.texts.scored_BT.sum(1)
        self.last = counts.cumsum(0) - 1
        self.right = torch.tensor([each.encoded.ids[-1] for each in passages])
        self.wrong = torch.tensor([each.wrong for each in prompts])

    @torch.no_grad()
    def activations(self) -> Tensor:
        """Raw activations at the read positions."""
        return run_target(self.target, self.texts).blocks[0][self.texts.read_BT].float()

    def __call__(self, nodes: Sequence[Tensor]) -> Tensor:
        latents_NM, error_ND = nodes
        changed_ND = self.sae.decode(latents_NM) + error_ND
        found = run_target(self.target, self.texts, lambda _: changed_ND)
        logits_BV = found.logits_SV[self.last]
        rows = torch.arange(len(self.last))
        return (logits_BV[rows, self.right] - logits_BV[rows, self.wrong]).mean()

    @torch.no_grad()
    def mean(self, nodes: Sequence[Tensor]) -> float:
        """The metric without gradients."""
        return self(nodes).item()


def _nodes(sae: SparseAutoencoder, x_ND: Tensor, reference_ND: Tensor) -> _Nodes:
    latents_NM, reference_NM = sae.encode(x_ND), sae.encode(reference_ND)
    return _Nodes(
        latents_NM,
        x_ND - sae.decode(latents_NM),
        reference_NM.mean(0),
        (reference_ND - sae.decode(reference_NM)).mean(0),
    )
