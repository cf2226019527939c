"""Losses of sparse autoencoders. All are sums over components and means over rows, as in SAELens
and dictionary_learning; other libraries scale theirs otherwise, so losses are never compared
between them, only fractions of variance explained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .affine import Affine, decode


def squared_error(x_ND: Float[Tensor, "N D"], x_hat_ND: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """E ‖x - x̂‖²."""
    return (x_ND - x_hat_ND).square().sum(-1).mean()


def weighted_l1(
    latents_NM: Float[Tensor, "N M"], W_dec_MD: Float[Tensor, "M D"]
) -> Float[Tensor, ""]:
    """E Σ f_i ‖W_dec,i‖: by decoder norms, so that growing a direction does not make sparsity
    cheaper (Anthropic's update of April 2024)."""
    return (latents_NM * W_dec_MD.norm(dim=-1)).sum(-1).mean()


def prefix_error(
    x_ND: Float[Tensor, "N D"],
    latents_NM: Float[Tensor, "N M"],
    affine: Affine,
    prefixes: Sequence[int],
) -> Float[Tensor, ""]:
    """Matryoshka: the sum over prefixes m of the error of a decoder that has the first m latents
    alone (Bussmann et al. 2025, 2503.17547)."""
    total = x_ND.new_zeros(())
    partial_ND, start = affine.b_dec_D.expand_as(x_ND), 0
    for end in prefixes:
        partial_ND = partial_ND + latents_NM[:, start:end] @ affine.W_dec_MD[start:end]
        total = total + squared_error(x_ND, partial_ND)
        start = end
    return total


def dead_latents_error(
    residual_ND: Float[Tensor, "N D"],
    pre_NM: Float[Tensor, "N M"],
    dead_M: Bool[Tensor, " M"],
    W_dec_MD: Float[Tensor, "M D"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """AuxK: the error with which the k_aux strongest dead latents of each row rebuild what the
    living ones left over (Gao et al. 2024); 0 where none is dead.

    Scaled down where fewer than k_aux are dead. The decoder's bias is no part of it, since the
    residual has none.
    """
    num_dead = int(dead_M.sum())
    if num_dead == 0:
        return residual_ND.new_zeros(())
    k = min(k_aux, num_dead)
    values_NK, index_NK = pre_NM.masked_fill(~dead_M, -torch.inf).topk(k, dim=-1, sorted=False)
    latents_NM = torch.zeros_like(pre_NM).scatter(-1, index_NK, values_NK.relu())
    error = squared_error(residual_ND.detach(), latents_NM @ W_dec_MD)
    return error * min(num_dead / k_aux, 1.0)


def gate_error(
    x_ND: Float[Tensor, "N D"], gate_NM: Float[Tensor, "N M"], affine: Affine
) -> Float[Tensor, ""]:
    """Gated: the gate's own pre-activations must rebuild x through a decoder that does not learn
    from it (Rajamanoharan et al. 2024, 2404.16014)."""
    frozen = Affine(*(part.detach() for part in affine))
    return squared_error(x_ND, decode(gate_NM.relu(), frozen))


def contrastive(now_NH: Float[Tensor, "N H"], before_NH: Float[Tensor, "N H"]) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over cosines at temperature 1: a row's high-level latents should be nearer
    to those of the token before it than to those of other rows, and the other way round
    (T-SAE, 2511.05541, its equation; the two terms are summed as printed there)."""
    unit_now_NH = torch.nn.functional.normalize(now_NH, dim=-1)
    unit_before_NH = torch.nn.functional.normalize(before_NH, dim=-1)
    cosines_NN = unit_now_NH @ unit_before_NH.T
    own_N = torch.arange(len(now_NH), device=now_NH.device)
    forward = torch.nn.functional.cross_entropy(cosines_NN, own_N)
    return forward + torch.nn.functional.cross_entropy(cosines_NN.T, own_N)


def output_kl(
    original_NV: Float[Tensor, "N V"], changed_NV: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """KL(original ‖ changed) of next-token distributions, given as logits, in nats.

    The direction is that of the released code of end-to-end SAEs (Braun et al. 2024); its docstring
    names the other one.
    """
    original = original_NV.float().log_softmax(-1)
    return (original.exp() * (original - changed_NV.float().log_softmax(-1))).sum(-1)
