"""Which latents of one site a behaviour depends on: effects, faithfulness and completeness.

A behaviour is a set of prompts, each with the token that is right and one that is wrong; the metric
is the difference of their logits. Nodes are the latents of an autoencoder at one site, and its
error; what is left out of a circuit is put at its mean over reference texts. Latents are chosen by
their effects on some prompts, and circuits are measured on others. `circuit_graph` has several
sites and the edges between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.circuits import faithfulness, node_effects
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, ratio_interval
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .behaviour import Behaviour, Prompt, prompt_interval, prompt_names
from .measure import check_fits

SIZES = (0, 1, 2, 5, 10, 20, 50, 100, 200)


class CircuitPoint(FrozenModel):
    """The circuit of the `nodes` latents with the largest effects."""

    nodes: int
    faithfulness: float | None
    """All other latents at their means, the error as it is."""
    faithfulness_interval: Interval | None
    completeness: float | None
    """The same of everything but the circuit."""
    completeness_interval: Interval | None


class Effect(FrozenModel):
    """A latent's effect on the metric when it is put at its mean."""

    latent: int
    effect: float
    interval: Interval
    label: str | None = None


class CircuitReport(FrozenModel):
    """A behaviour at one site. Intervals are 95 %, by prompt."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_circuit"] = "sae_circuit"
    sae: str
    behaviour: str
    chosen_on: int
    """Prompts whose effects say which latents are in a circuit."""
    prompts: int
    """Other prompts, which everything but the effects is measured on."""
    metric: float
    """Mean logit difference of the model."""
    metric_interval: Interval
    metric_without: float
    """With every latent at its mean, the error kept."""
    metric_without_interval: Interval
    error_effect: float
    """Of putting the error at its mean."""
    effects: tuple[Effect, ...]
    """The largest ones."""
    curve: tuple[CircuitPoint, ...]


def circuit(
    sae: SparseAutoencoder,
    target: Target,
    chosen_on: Sequence[Prompt],
    prompts: Sequence[Prompt],
    reference_ND: Tensor,
    *,
    name: str,
    behaviour: str,
    labels: Mapping[int, str] | None = None,
    shown: int = 40,
    steps: int = 10,
) -> CircuitReport:
    """Find the latents that a behaviour depends on, and how few of them do.

    Args:
        chosen_on: prompts whose effects order the latents.
        prompts: those that the circuits of the first so many latents are measured on.
        reference_ND: raw activations of the site, from which the means are taken.

    Raises:
        InputError: fewer than two prompts of a kind, or an autoencoder of another site.
    """
    check_fits(sae, target)
    if min(len(chosen_on), len(prompts)) < 2:
        raise InputError(
            f"There are {len(chosen_on)} prompts to choose latents on and {len(prompts)} to "
            "measure circuits on; two of each are needed."
        )
    target.model.requires_grad_(False)
    effects_BM, error_effect = _effects(sae, target, chosen_on, reference_ND, steps)
    order = effects_BM.mean(0).abs().argsort(descending=True)
    measured = _Measured(sae, target, prompts, reference_ND)
    sizes = [size for size in SIZES if size < len(order)] + [len(order)]
    return CircuitReport(
        sae=name,
        behaviour=behaviour,
        chosen_on=len(chosen_on),
        prompts=len(prompts),
        metric=measured.whole_B.mean().item(),
        metric_interval=prompt_interval(measured.whole_B),
        metric_without=measured.empty_B.mean().item(),
        metric_without_interval=prompt_interval(measured.empty_B),
        error_effect=error_effect,
        effects=tuple(_effect(effects_BM, i, labels or {}) for i in order[:shown].tolist()),
        curve=tuple(_point(measured, order, size) for size in sizes),
    )


def _effects(
    sae: SparseAutoencoder,
    target: Target,
    prompts: Sequence[Prompt],
    reference_ND: Tensor,
    steps: int,
) -> tuple[Tensor, float]:
    """Effect B x M of each latent on each prompt's metric, and the error's on the mean."""
    metric = Behaviour(sae, target, prompts)
    nodes = metric.nodes(reference_ND)
    effects_BJ = metric.by_prompt_sum(node_effects(metric, nodes.clean, nodes.patch, steps))
    return effects_BJ[:, :-1], effects_BJ[:, -1].mean().item()


def _effect(effects_BM: Tensor, latent: int, labels: Mapping[int, str]) -> Effect:
    effect_B = effects_BM[:, latent]
    return Effect(
        latent=latent,
        effect=effect_B.mean().item(),
        interval=prompt_interval(effect_B),
        label=labels.get(latent),
    )


class _Measured:
    """Circuits of one behaviour: the metric of each prompt with some latents kept."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        target: Target,
        prompts: Sequence[Prompt],
        reference_ND: Tensor,
    ) -> None:
        self.metric = Behaviour(sae, target, prompts)
        self.nodes = self.metric.nodes(reference_ND)
        everything = torch.arange(sae.config.d_sae)
        self.whole_B, self.empty_B = self.kept(everything), self.kept(everything[:0])

    @torch.no_grad()
    def kept(self, chosen: Tensor) -> Tensor:
        """The metric of each prompt, all latents but the chosen ones at their means."""
        mask_M = torch.zeros(self.nodes.latents_NM.shape[1], dtype=torch.bool)
        mask_M[chosen] = True
        mask_M = mask_M.to(self.nodes.latents_NM.device)
        latents_NM = torch.where(mask_M, self.nodes.latents_NM, self.nodes.patch[0])
        return self.metric.by_prompt([latents_NM, self.nodes.error_ND]).cpu()

    def faithfulness(self, chosen: Tensor) -> tuple[float | None, Interval | None]:
        """Of the circuit of some latents, with its interval."""
        done_B = self.kept(chosen)
        means = (each.mean().item() for each in (done_B, self.empty_B, self.whole_B))
        found = faithfulness(*means)
        if found is None:
            return None, None
        whole_B = self.whole_B - self.empty_B
        return found, ratio_interval(done_B - self.empty_B, whole_B, prompt_names(whole_B))


def _point(measured: _Measured, order: Tensor, size: int) -> CircuitPoint:
    faithful, complete = (measured.faithfulness(each) for each in (order[:size], order[size:]))
    return CircuitPoint(
        nodes=size,
        faithfulness=faithful[0],
        faithfulness_interval=faithful[1],
        completeness=complete[0],
        completeness_interval=complete[1],
    )
