"""What latents know, against facts of known truth: is there a latent for a fact, is it split over
several, is it absorbed by others?

Half of the documents choose (latent, threshold, probe), the other half scores. Definitions:
  - F1 of the best latent above the best threshold;
  - sparse probing: logistic regression on the k latents whose means differ most, k = 1, 2, 5;
  - dense: a linear probe of the activation itself, the ceiling; every probe has the threshold that
    gave the best F1 where it was chosen;
  - split: latents that together, each joining when it raises F1 by 0.03, say the fact;
  - absorbed: of the rows that hold the fact and that the dense probe sees, those where all of the
    split's latents are silent and one other latent carries at least 0.4 of the projection on the
    probe, at a cosine of 0.025 or more (SAEBench's full definition).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.metrics import count
from nlakit.errors import InputError

GOOD_F1 = 0.9
MINIMUM_ROWS = 30
"""Rows in each half that must hold a fact, and as many that must not."""
CANDIDATES = 8
SPLIT_GAIN, SPLIT_MOST = 0.03, 10
ABSORBED_SHARE, ABSORBED_COSINE = 0.4, 0.025
PROBE_SIZES = (1, 2, 5)


class FactScore(FrozenModel):
    """One fact."""

    fact: str
    rows: int
    """Scored rows that hold it."""
    latent: int
    threshold: float
    f1: float
    precision: float
    recall: float
    probes: dict[int, float]
    """F1 of a sparse probe by its number of latents."""
    dense: float
    """F1 of a linear probe of the activation."""
    split: tuple[int, ...]
    absorbed: float | None
    """None where the split's latents miss no row that the dense probe sees."""


class FactReport(FrozenModel):
    """All facts that occur often enough."""

    found: int
    """Facts with a latent of F1 ≥ 0.9."""
    readable: int
    """Facts that the dense probe knows with F1 ≥ 0.9."""
    total: int
    mean_f1: float
    scores: tuple[FactScore, ...]


@dataclass(frozen=True)
class LabelledRows:
    """Activations, their latents, and what is true of each.

    Attributes:
        facts: per row the facts that hold.
        documents: per row its document's id.
    """

    x_ND: Float[Tensor, "N D"]
    latents_NM: Float[Tensor, "N M"]
    facts: Sequence[frozenset[str]]
    documents: Sequence[str]

    def halves(self) -> tuple[Tensor, Tensor]:
        """Rows of every other document, and the rest.

        Raises:
            InputError: fewer than two documents.
        """
        order = {name: number for number, name in enumerate(dict.fromkeys(self.documents))}
        if len(order) < 2:
            raise InputError("Facts are chosen on one half of the documents: give at least two.")
        even_N = torch.tensor([order[name] % 2 == 0 for name in self.documents])
        return even_N.nonzero().flatten(), (~even_N).nonzero().flatten()


@dataclass(frozen=True)
class _Half:
    """Rows of one half of the documents."""

    x_ND: Tensor
    latents_NM: Tensor
    facts_NF: Tensor

    @cached_property
    def active_NM(self) -> Tensor:
        return self.latents_NM > 0

    @cached_property
    def spread_M(self) -> Tensor:
        return self.latents_NM.std(0).clamp_min(1e-6)

    @cached_property
    def f1_FM(self) -> Tensor:
        """Of `latent > 0`, for every fact."""
        facts_FN = self.facts_NF.T.float()
        true_FM = facts_FN @ self.active_NM.float()
        return 2 * true_FM / (self.active_NM.sum(0) + facts_FN.sum(1, keepdim=True)).clamp_min(1)

    @cached_property
    def difference_FM(self) -> Tensor:
        """Mean of each latent where a fact holds less its mean elsewhere, over the spread."""
        facts_FN = self.facts_NF.T.float()
        held_F1 = facts_FN.sum(1, keepdim=True)
        sum_FM = facts_FN @ self.latents_NM
        elsewhere_FM = (self.latents_NM.sum(0) - sum_FM) / (len(self.latents_NM) - held_F1)
        return (sum_FM / held_F1 - elsewhere_FM) / self.spread_M


def score_facts(rows: LabelledRows, directions_MD: Float[Tensor, "M D"]) -> FactReport:
    """Score the latents of an autoencoder by facts.

    Args:
        directions_MD: unit decoder rows.

    Raises:
        InputError: no fact occurs often enough in both halves of the documents.
    """
    choose, score = rows.halves()
    names, facts_NF = _facts(rows.facts, choose, score)
    parts = [
        _Half(rows.x_ND[half].float(), rows.latents_NM[half].float(), facts_NF[half])
        for half in (choose, score)
    ]
    probe = _dense_probe(parts[0])
    scores = [
        _score_fact(name, column, parts[0], parts[1], probe, directions_MD)
        for column, name in enumerate(names)
    ]
    return FactReport(
        found=sum(each.f1 >= GOOD_F1 for each in scores),
        readable=sum(each.dense >= GOOD_F1 for each in scores),
        total=len(scores),
        mean_f1=sum(each.f1 for each in scores) / len(scores),
        scores=tuple(scores),
    )


def _facts(
    facts: Sequence[frozenset[str]], choose: Tensor, score: Tensor
) -> tuple[list[str], Bool[Tensor, "N F"]]:
    counts = [Counter(f for row in half.tolist() for f in facts[row]) for half in (choose, score)]
    sizes = (len(choose), len(score))
    names = sorted(
        name
        for name in counts[0]
        if all(
            MINIMUM_ROWS <= number[name] <= size - MINIMUM_ROWS
            for number, size in zip(counts, sizes, strict=True)
        )
    )
    if not names:
        raise InputError(
            f"No fact holds at {MINIMUM_ROWS} positions in each half of the documents. Read more."
        )
    column = {name: number for number, name in enumerate(names)}
    facts_NF = torch.zeros(len(facts), len(names), dtype=torch.bool)
    for row, held in enumerate(facts):
        for name in held & column.keys():
            facts_NF[row, column[name]] = True
    return names, facts_NF


def _score_fact(
    name: str,
    column: int,
    choose: _Half,
    score: _Half,
    probe: _Probe,
    directions_MD: Tensor,
) -> FactScore:
    chosen_N, held_N = choose.facts_NF[:, column], score.facts_NF[:, column]
    latent, threshold = _best_latent(choose, column)
    counts = count((score.latents_NM[:, latent] > threshold)[:, None], held_N)
    true, said = counts.true_M.item(), counts.said_M.item()
    split = _split(choose, chosen_N, latent, threshold)
    seen_N = held_N & probe.says(score.x_ND, column)
    return FactScore(
        fact=name,
        rows=int(held_N.sum()),
        latent=latent,
        threshold=threshold,
        f1=counts.f1_M.item(),
        precision=true / said if said else 0.0,
        recall=true / counts.held,
        probes={k: _sparse_probe(choose, score, column, k) for k in PROBE_SIZES},
        dense=_f1(probe.says(score.x_ND, column), held_N).item(),
        split=split,
        absorbed=_absorbed(score, seen_N, split, probe.direction(column), directions_MD),
    )


# -- the best latent -------------------------------------------------------------------------------
def _best_latent(choose: _Half, column: int) -> tuple[int, float]:
    """The latent, and its threshold, that agree best with a fact."""
    num = min(CANDIDATES, choose.latents_NM.shape[1])
    tables = (choose.f1_FM, choose.difference_FM)
    candidates = sorted({i for table in tables for i in table[column].topk(num).indices.tolist()})
    fact_N = choose.facts_NF[:, column]
    found = [(*_best_threshold(choose.latents_NM[:, i], fact_N), i) for i in candidates]
    _, threshold, latent = max(found)
    return latent, threshold


def _best_threshold(latent_N: Tensor, fact_N: Tensor) -> tuple[float, float]:
    """The largest F1 of `latent > threshold` over thresholds from 0 on, and that threshold."""
    values_N, order_N = latent_N.sort(descending=True)
    true_N = fact_N[order_N].double().cumsum(0)
    said_N = torch.arange(1, len(values_N) + 1, dtype=torch.float64)
    f1_N = 2 * true_N / (said_N + fact_N.sum())
    following_N = torch.cat([values_N[1:], values_N.new_zeros(1)]).clamp_min(0)
    # A cut between equal values is none, and silent latents say nothing.
    f1_N = f1_N.masked_fill((values_N <= following_N) | (values_N <= 0), -1)
    best = int(f1_N.argmax())
    return f1_N[best].item(), following_N[best].item() if f1_N[best] >= 0 else 0.0


def _split(choose: _Half, fact_N: Tensor, latent: int, threshold: float) -> tuple[int, ...]:
    chosen = [latent]
    said_N = choose.latents_NM[:, latent] > threshold
    f1 = count(said_N[:, None], fact_N).f1_M.item()
    while len(chosen) < SPLIT_MOST:
        rest_NM = choose.active_NM[~said_N].double()
        more_true_M = fact_N[~said_N].double() @ rest_NM
        true_M = more_true_M + (said_N & fact_N).sum()
        total_M = rest_NM.sum(0) + said_N.sum() + fact_N.sum()
        best = (2 * true_M / total_M).max(0)
        if best.values.item() < f1 + SPLIT_GAIN:
            break
        f1 = best.values.item()
        chosen.append(int(best.indices))
        said_N = said_N | choose.active_NM[:, chosen[-1]]
    return tuple(chosen)


def _absorbed(
    score: _Half,
    seen_N: Tensor,
    split: Sequence[int],
    direction_D: Tensor,
    directions_MD: Tensor,
) -> float | None:
    missed_N = seen_N & ~(score.active_NM[:, list(split)].any(1))
    if not seen_N.any() or not missed_N.any():
        return None if not seen_N.any() else 0.0
    cosine_M = directions_MD @ direction_D
    parts_RM = score.latents_NM[missed_N] * cosine_M
    projection_R = score.x_ND[missed_N] @ direction_D
    largest = parts_RM.max(-1)
    absorbed_R = (largest.values >= ABSORBED_SHARE * projection_R) & (projection_R > 0)
    absorbed_R &= cosine_M[largest.indices] >= ABSORBED_COSINE
    return absorbed_R.sum().item() / int(seen_N.sum())


# -- probes ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Probe:
    """Linear probes of all facts, each with the threshold that gave the best F1."""

    weight_DF: Tensor
    bias_F: Tensor
    threshold_F: Tensor
    center_D: Tensor
    spread_D: Tensor

    def says(self, x_ND: Tensor, column: int) -> Tensor:
        """At which rows the probe sees a fact."""
        return self.belief(x_ND)[:, column] > self.threshold_F[column]

    def belief(self, x_ND: Tensor) -> Tensor:
        """Probability of every fact at every row."""
        inner_ND = (x_ND - self.center_D) / self.spread_D
        return (inner_ND @ self.weight_DF + self.bias_F).sigmoid()

    def direction(self, column: int) -> Tensor:
        """Unit direction of a fact in the space of raw activations."""
        return torch.nn.functional.normalize(self.weight_DF[:, column] / self.spread_D, dim=0)


def _dense_probe(half: _Half) -> _Probe:
    center_D, spread_D = half.x_ND.mean(0), half.x_ND.std(0).clamp_min(1e-6)
    weight_DF, bias_F = logistic((half.x_ND - center_D) / spread_D, half.facts_NF)
    untuned = _Probe(weight_DF, bias_F, torch.zeros_like(bias_F), center_D, spread_D)
    belief_NF = untuned.belief(half.x_ND)
    found = [
        _best_threshold(belief_NF[:, column], half.facts_NF[:, column])[1]
        for column in range(len(bias_F))
    ]
    return replace(untuned, threshold_F=torch.tensor(found))


def _sparse_probe(choose: _Half, score: _Half, column: int, k: int) -> float:
    fact_N = choose.facts_NF[:, column]
    chosen = choose.difference_FM[column].topk(min(k, choose.latents_NM.shape[1])).indices
    scale_K = choose.spread_M[chosen]
    weight_K1, bias_1 = logistic(choose.latents_NM[:, chosen] / scale_K, fact_N[:, None])
    belief_N = (choose.latents_NM[:, chosen] / scale_K @ weight_K1 + bias_1).sigmoid().flatten()
    _, threshold = _best_threshold(belief_N, fact_N)
    scored_N = (score.latents_NM[:, chosen] / scale_K @ weight_K1 + bias_1).sigmoid().flatten()
    return _f1(scored_N > threshold, score.facts_NF[:, column]).item()


def logistic(
    x_ND: Float[Tensor, "N D"], y_NF: Bool[Tensor, "N F"], steps: int = 60, ridge: float = 1e-4
) -> tuple[Float[Tensor, "D F"], Float[Tensor, " F"]]:
    """Logistic regression of F questions at once, by L-BFGS with a small ridge."""
    weight_DF = torch.zeros(x_ND.shape[1], y_NF.shape[1], requires_grad=True)
    share_F = y_NF.float().mean(0).clamp(1e-4, 1 - 1e-4)
    bias_F = torch.logit(share_F).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight_DF, bias_F], max_iter=steps, line_search_fn="strong_wolfe"
    )
    target_NF = y_NF.float()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            x_ND @ weight_DF + bias_F, target_NF
        )
        loss = loss * y_NF.shape[1] + ridge * weight_DF.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight_DF.detach(), bias_F.detach()


def _f1(said_N: Tensor, held_N: Tensor) -> Tensor:
    true = (said_N & held_N).sum().double()
    return 2 * true / (said_N.sum() + held_N.sum()).clamp_min(1)
