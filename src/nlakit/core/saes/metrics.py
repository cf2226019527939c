"""Figures of sparse autoencoders, summed in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def squared_errors(
    x_ND: Float[Tensor, "N D"], x_hat_ND: Float[Tensor, "N D"]
) -> Float[Tensor, " N"]:
    """‖x - x̂‖² of each row, in float64."""
    return (x_ND.double() - x_hat_ND.double()).square().sum(-1)


def squared_deviations(
    x_ND: Float[Tensor, "N D"], mean_D: Float[Tensor, " D"]
) -> Float[Tensor, " N"]:
    """‖x - mean‖² of each row, in float64; their mean over rows is the variance in FVE."""
    return (x_ND.double() - mean_D.double()).square().sum(-1)


def fraction_of_variance(x_ND: Float[Tensor, "N D"], x_hat_ND: Float[Tensor, "N D"]) -> float:
    """FVE = 1 - E‖x - x̂‖² / (E‖x‖² - ‖E x‖²): raw vectors, against the mean of these rows.

    Not the NLA's `core.fidelity.fve`, which brings vectors to one norm first. A constant error
    counts in full here; formulas with the variance of the residual do not see it.
    """
    deviations_N = squared_deviations(x_ND, x_ND.double().mean(0))
    return 1 - (squared_errors(x_ND, x_hat_ND).sum() / deviations_N.sum()).item()


def recovered(clean: float, ablated: float, spliced: float) -> float | None:
    """Share of the damage that ablation does which the autoencoder's output does not do:
    (ablated - spliced) / (ablated - clean); None where ablation does none."""
    return None if ablated == clean else (ablated - spliced) / (ablated - clean)


def steps_of_latents(
    latents_TM: Float[Tensor, "T M"], x_TD: Float[Tensor, "T D"]
) -> Float[Tensor, " M"]:
    """How suddenly each latent changes along one text: max_t |f_i(t) - f_i(t-1)| / ‖x_t - x_t-1‖.

    Only latents that are active somewhere in it have a value; the others are NaN. The mean over
    them, and then over texts, is the T-SAE paper's smoothness: lower is smoother.
    """
    change_TM = (latents_TM[1:] - latents_TM[:-1]).abs()
    distance_T1 = (x_TD[1:] - x_TD[:-1]).norm(dim=-1, keepdim=True).clamp_min(1e-8)
    largest_M = (change_TM / distance_T1).amax(0)
    return largest_M.masked_fill(~(latents_TM > 0).any(0), torch.nan)


@dataclass(frozen=True)
class Counts:
    """A yes-or-no question against a known answer, a column a latent.

    Attributes:
        true_M: rows where both hold.
        said_M: rows where the latent is active.
        held: rows where the fact holds.
    """

    true_M: Float[Tensor, " M"]
    said_M: Float[Tensor, " M"]
    held: float

    @property
    def f1_M(self) -> Float[Tensor, " M"]:
        """Harmonic mean of precision and recall; 0 where nothing is right."""
        return 2 * self.true_M / (self.said_M + self.held).clamp_min(1)


def count(active_NM: Bool[Tensor, "N M"], fact_N: Bool[Tensor, " N"]) -> Counts:
    """How the activity of each latent agrees with a fact."""
    active_NM = active_NM.double()
    fact_N = fact_N.double()
    return Counts(fact_N @ active_NM, active_NM.sum(0), fact_N.sum().item())


def jaccard(first_NM: Bool[Tensor, "N M"], second_NM: Bool[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """Shared active latents over all that either has; 0 where neither has any."""
    shared_N = (first_NM & second_NM).sum(-1).double()
    return shared_N / (first_NM | second_NM).sum(-1).clamp_min(1)


def max_cosines(
    directions_MD: Float[Tensor, "M D"], others_PD: Float[Tensor, "P D"], *, same: bool = False
) -> tuple[Float[Tensor, " M"], Tensor]:
    """Nearest neighbour of each direction in another dictionary: its cosine and its number.

    Args:
        same: both are one dictionary, so a direction is no neighbour of its own.
    """
    unit_MD = torch.nn.functional.normalize(directions_MD, dim=-1)
    cosines_MP = unit_MD @ torch.nn.functional.normalize(others_PD, dim=-1).T
    if same:
        cosines_MP.fill_diagonal_(-torch.inf)
    best = cosines_MP.max(dim=-1)
    return best.values, best.indices
