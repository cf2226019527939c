"""A behaviour as circuits see it: prompts with a metric, and the nodes of an autoencoder's site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.evals.bootstrap import Interval, ratio_interval
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .splice import padded, run_target
from .texts import Passage


class Prompt(NamedTuple):
    """A text whose last token is the right one, and the wrong one beside it.

    The metric is read one position before the end, where the model has not seen it.
    """

    passage: Passage
    wrong: int


@dataclass(frozen=True)
class Nodes:
    """Clean values at the read positions of all prompts, and what takes their place."""

    latents_NM: Float[Tensor, "N M"]
    error_ND: Float[Tensor, "N D"]
    patch: tuple[Tensor, Tensor]

    @property
    def clean(self) -> tuple[Tensor, Tensor]:
        """Latents and error."""
        return self.latents_NM, self.error_ND


class Behaviour:
    """Mean logit difference over prompts, as a function of latents and error at read positions.

    Attributes:
        prompt_N: the prompt that each read position is of.
        last: row of each prompt's metric among the scored positions.
    """

    def __init__(self, sae: SparseAutoencoder, target: Target, prompts: Sequence[Prompt]) -> None:
        self.sae, self.target = sae, target
        passages = [each.passage for each in prompts]
        self.texts = padded(passages, target.model.device)
        counts = self.texts.scored_BT.sum(1)
        self.last = counts.cumsum(0) - 1
        self.right = torch.tensor([each.encoded.ids[-1] for each in passages])
        self.wrong = torch.tensor([each.wrong for each in prompts])
        self.prompt_N = self.texts.read_BT.nonzero()[:, 0].cpu()

    @torch.no_grad()
    def activations(self) -> Float[Tensor, "N D"]:
        """Raw activations at the read positions."""
        return run_target(self.target, self.texts).blocks[0][self.texts.read_BT].float()

    def nodes(self, reference_ND: Float[Tensor, "N D"]) -> Nodes:
        """Of the prompts' activations; patched with means over reference activations."""
        return nodes_of(self.sae, self.activations(), reference_ND)

    def __call__(self, nodes: Sequence[Tensor]) -> Tensor:
        return self.by_prompt(nodes).mean()

    def by_prompt(self, nodes: Sequence[Tensor]) -> Float[Tensor, " B"]:
        """The difference of logits of each prompt."""
        latents_NM, error_ND = nodes
        changed_ND = self.sae.decode(latents_NM) + error_ND
        found = run_target(self.target, self.texts, lambda _: changed_ND)
        return self.differences(found.logits_SV)

    def differences(self, logits_SV: Float[Tensor, "S V"]) -> Float[Tensor, " B"]:
        """Right less wrong logit of each prompt, of the logits at scored positions."""
        logits_BV = logits_SV[self.last]
        rows = torch.arange(len(self.last))
        return logits_BV[rows, self.right] - logits_BV[rows, self.wrong]

    def by_prompt_sum(self, effects: Sequence[Tensor]) -> Float[Tensor, "B J"]:
        """Effects of latents and error on the mean metric, to those on each prompt's own: summed
        over its positions, the error's as one number in the last column."""
        by_latent_NM, by_error_ND = effects
        by_node_NJ = torch.cat([by_latent_NM, by_error_ND.sum(-1, keepdim=True)], -1).cpu()
        # The metric is a mean, so a prompt's rows have its effect over the number of prompts.
        num_prompts = len(self.last)
        total_BJ = torch.zeros(num_prompts, by_node_NJ.shape[1])
        return total_BJ.index_add_(0, self.prompt_N, by_node_NJ * num_prompts)


def nodes_of(
    sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], reference_ND: Float[Tensor, "R D"]
) -> Nodes:
    """Latents and error of activations; patched: their means over reference activations."""
    latents_NM, error_ND = split(sae, x_ND)
    means = [each.mean(0) for each in split(sae, reference_ND.to(x_ND.device))]
    patch = (means[0].expand_as(latents_NM), means[1].expand_as(error_ND))
    return Nodes(latents_NM, error_ND, patch)


def split(
    sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"]
) -> tuple[Float[Tensor, "N M"], Float[Tensor, "N D"]]:
    """Activations as latents and what the autoencoder leaves out."""
    latents_NM = sae.encode(x_ND)
    return latents_NM, x_ND - sae.decode(latents_NM)


def prompt_interval(value_B: Float[Tensor, " B"]) -> Interval:
    """Of the mean over prompts."""
    return ratio_interval(value_B, torch.ones_like(value_B), prompt_names(value_B))


def prompt_names(value_B: Tensor) -> list[str]:
    """Prompts as documents that intervals resample."""
    return [str(number) for number in range(len(value_B))]
