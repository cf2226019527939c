"""An autoencoder's figures on held-out texts: what it keeps, at what cost, and what it does to the
target that it is spliced into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.losses import output_kl
from nlakit.core.saes.metrics import recovered, squared_deviations, squared_errors, steps_of_latents
from nlakit.data.extraction import target_sha256
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, ratio_interval
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .facts import FactReport, LabelledRows, score_facts
from .splice import PaddedTexts, next_tokens, padded, run_target, scored_rows
from .texts import Passage, TextSource

PASSAGES_PER_PASS = 32
LOGITS_PER_PASS = 100_000_000
"""About 400 MB of logits, three times: a pass of a model with many tokens has fewer passages."""
DENSITY_EDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Progress = Callable[[int, int], None]


class SaeReport(FrozenModel):
    """One autoencoder on held-out documents. Intervals are 95 %, by document."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_report"] = "sae_report"
    sae: str
    architecture: str
    trained_as: str
    objective: str | None
    d_in: int
    d_sae: int
    model: str
    target_sha256: str
    layer: int
    corpus: str
    seed: int
    documents: int
    rows: int
    fve: float
    """1 - E‖x - x̂‖² / E‖x - mean‖² of raw activations, in float64."""
    fve_interval: Interval
    l0: float
    """Active latents per row."""
    l0_interval: Interval
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    """Next-token loss in nats: alone, with the reconstruction, with zeros in its place."""
    ce_recovered: float | None
    """(zero - spliced) / (zero - clean); None where zeros do no damage."""
    ce_recovered_interval: Interval | None
    kl: float
    """KL(clean ‖ spliced) per token."""
    kl_interval: Interval
    kl_recovered: float | None
    """(KL of zeros - KL spliced) / KL of zeros."""
    kl_recovered_interval: Interval | None
    alive: float
    """Share of the latents that were active at least once on these rows."""
    density: dict[str, int]
    """Latents by the share of rows on which they are active: from (not) 0 to the next edge."""
    smoothness: float
    """Mean over texts and active latents of the largest change over the distance moved."""
    smoothness_interval: Interval | None
    """None: too few texts have a value; so of the next ones."""
    smoothness_high: float | None = None
    """The same of the high-level latents of a temporal one, and of the others."""
    smoothness_high_interval: Interval | None = None
    smoothness_low: float | None = None
    smoothness_low_interval: Interval | None = None
    facts: FactReport | None
    """None where no truth is known."""


@dataclass
class _Sums:
    """Figures per document, row after row."""

    x: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    facts: list[frozenset[str]] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    scored: list[str] = field(default_factory=list)

    def loss(self, name: str) -> Float[Tensor, " S"]:
        return torch.cat(self.losses[name])


def measure(
    sae: SparseAutoencoder,
    target: Target,
    source: TextSource,
    *,
    name: str,
    documents: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> SaeReport:
    """Measure an autoencoder at the target's site on held-out documents.

    Raises:
        InputError: an autoencoder of another width or layer, or fewer than two documents.
    """
    check_fits(sae, target)
    passages = list(islice(source.passages(target, "heldout"), documents))
    if len(passages) < 2:
        raise InputError(f"{source.name} has {len(passages)} held-out documents; two are needed.")
    sums = _Sums()
    for done, batch in _batches(passages, target.model.config.vocab_size):
        _add(sums, sae, target, batch)
        if progress is not None:
            progress(done, len(passages))
    return _report(sums, sae, target, source, name, seed, len(passages))


def check_fits(sae: SparseAutoencoder, target: Target) -> None:
    """Raise `InputError` unless the autoencoder is of activations that the target gives."""
    config = sae.config
    if config.d_in != target.d_model:
        raise InputError(
            f"The autoencoder reads activations of width {config.d_in}, the target's are "
            f"{target.d_model} wide. Name its own target with --target."
        )
    if config.hook_name is not None and config.layer is None:
        raise InputError(
            f"The autoencoder reads {config.hook_name}; nlakit runs it on the residual stream only."
        )
    if config.layer is not None and config.layer != target.site.layer:
        raise InputError(
            f"The autoencoder is of layer {config.layer}; the target is read at "
            f"{target.site.layer}."
        )


def check_latents(sae: SparseAutoencoder, latents: Sequence[int]) -> None:
    """Raise `InputError` unless there are such latents."""
    bad = [each for each in latents if not 0 <= each < sae.config.d_sae]
    if bad:
        raise InputError(f"Latent {bad[0]} was asked for; there are 0 to {sae.config.d_sae - 1}.")


@torch.no_grad()
def _add(sums: _Sums, sae: SparseAutoencoder, target: Target, passages: Sequence[Passage]) -> None:
    texts = padded(passages, target.model.device)
    clean = run_target(target, texts)
    x_ND = clean.blocks[0][texts.read_BT].float()
    latents_NM = sae.encode(x_ND)
    x_hat_ND = sae.reconstruct(x_ND)
    spliced = run_target(target, texts, lambda _: x_hat_ND)
    zeroed = run_target(target, texts, torch.zeros_like)
    tokens_S = next_tokens(texts)
    for key, found in (("clean", clean), ("spliced", spliced), ("zero", zeroed)):
        loss_S = torch.nn.functional.cross_entropy(found.logits_SV, tokens_S, reduction="none")
        kl_S = output_kl(clean.logits_SV, found.logits_SV)
        sums.losses.setdefault(key, []).append(loss_S.cpu())
        sums.losses.setdefault(f"kl_{key}", []).append(kl_S.cpu())
    sums.scored += [passages[row].id for row in scored_rows(texts).tolist()]
    sums.x.append(x_ND.cpu())
    sums.latents.append(latents_NM.cpu())
    sums.errors.append(squared_errors(x_ND, x_hat_ND).cpu())
    sums.steps += list(_steps(x_ND, latents_NM, texts))
    for passage in passages:
        sums.documents += [passage.id] * len(passage.positions)
        sums.facts += passage.facts or ()


def _steps(x_ND: Tensor, latents_NM: Tensor, texts: PaddedTexts) -> Iterator[Tensor]:
    start = 0
    for size in texts.read_BT.sum(1).tolist():
        if size > 1:
            rows = slice(start, start + size)
            yield steps_of_latents(latents_NM[rows], x_ND[rows]).cpu()
        start += size


def _report(
    sums: _Sums,
    sae: SparseAutoencoder,
    target: Target,
    source: TextSource,
    name: str,
    seed: int,
    num_documents: int,
) -> SaeReport:
    x_ND, latents_NM = torch.cat(sums.x), torch.cat(sums.latents)
    error_N = torch.cat(sums.errors)
    deviation_N = squared_deviations(x_ND, x_ND.double().mean(0))
    active_N = (latents_NM > 0).sum(-1).double()
    density_M = (latents_NM > 0).sum(0).double() / len(latents_NM)
    loss, divergence = _recovered(sums, ""), _recovered(sums, "kl_")
    high = num_high_of(sae)
    smoothness, smoothness_high, smoothness_low = (
        _smoothness(sums.steps, latents)
        for latents in (slice(None), slice(high), slice(high, None))
    )
    rows = LabelledRows(x_ND, latents_NM, sums.facts, sums.documents)
    return SaeReport(
        sae=name,
        architecture=sae.architecture,
        trained_as=sae.config.trained_as or sae.architecture,
        objective=_text(sae.config.metadata.get("objective")),
        d_in=sae.config.d_in,
        d_sae=sae.config.d_sae,
        model=sae.config.model or "",
        target_sha256=target_sha256(target),
        layer=target.site.layer,
        corpus=source.name,
        seed=seed,
        documents=num_documents,
        rows=len(x_ND),
        fve=1 - (error_N.sum() / deviation_N.sum()).item(),
        fve_interval=_flipped(ratio_interval(error_N, deviation_N, sums.documents)),
        l0=active_N.mean().item(),
        l0_interval=_mean_interval(active_N, sums.documents),
        ce_clean=sums.loss("clean").double().mean().item(),
        ce_spliced=sums.loss("spliced").double().mean().item(),
        ce_zero=sums.loss("zero").double().mean().item(),
        ce_recovered=loss[0],
        ce_recovered_interval=loss[1],
        kl=sums.loss("kl_spliced").double().mean().item(),
        kl_interval=_mean_interval(sums.loss("kl_spliced"), sums.scored),
        kl_recovered=divergence[0],
        kl_recovered_interval=divergence[1],
        alive=(density_M > 0).double().mean().item(),
        density=_histogram(density_M),
        smoothness=smoothness[0],
        smoothness_interval=smoothness[1],
        smoothness_high=smoothness_high[0] if high else None,
        smoothness_high_interval=smoothness_high[1] if high else None,
        smoothness_low=smoothness_low[0] if high else None,
        smoothness_low_interval=smoothness_low[1] if high else None,
        facts=score_facts(rows, sae.directions.cpu()) if sums.facts else None,
    )


def _recovered(sums: _Sums, prefix: str) -> tuple[float | None, Interval | None]:
    """Share of the damage of zeros that the autoencoder does not do, with its interval."""
    clean_S, zero_S, spliced_S = (
        sums.loss(prefix + key).double() for key in ("clean", "zero", "spliced")
    )
    means = (each.mean().item() for each in (clean_S, zero_S, spliced_S))
    damage_S = zero_S - clean_S
    if damage_S.sum() <= 0:
        return None, None
    return recovered(*means), ratio_interval(zero_S - spliced_S, damage_S, sums.scored)


def _smoothness(steps: Sequence[Tensor], latents: slice) -> tuple[float, Interval | None]:
    """Mean over texts of the mean over latents that are active in it, with its interval."""
    means = [each[latents].nanmean() for each in steps]
    defined = [mean for mean in means if not mean.isnan()]
    if not defined:
        return 0.0, None
    mean_P = torch.stack(defined)
    texts = [str(number) for number in range(len(mean_P))]
    return mean_P.mean().item(), _mean_interval(mean_P, texts) if len(texts) > 1 else None


def _mean_interval(value_N: Tensor, documents: Sequence[str]) -> Interval:
    return ratio_interval(value_N, torch.ones_like(value_N), documents)


def _histogram(density_M: Tensor) -> dict[str, int]:
    counts = {"0": int((density_M == 0).sum())}
    for low, high in zip(DENSITY_EDGES, DENSITY_EDGES[1:], strict=False):
        counts[f"to {high:g}"] = int(((density_M > low) & (density_M <= high)).sum())
    return counts


def _flipped(interval: Interval) -> Interval:
    return Interval(1 - interval.high, 1 - interval.low)


def num_high_of(sae: SparseAutoencoder) -> int:
    """High-level latents of a temporal one, which are the first; 0 of others."""
    found = sae.config.metadata.get("num_high")
    return found if isinstance(found, int) else 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _batches(
    passages: Sequence[Passage], vocabulary: int
) -> Iterator[tuple[int, Sequence[Passage]]]:
    longest = max(len(each.encoded.ids) for each in passages)
    size = max(1, min(PASSAGES_PER_PASS, LOGITS_PER_PASS // (longest * vocabulary)))
    for start in range(0, len(passages), size):
        batch = passages[start : start + size]
        yield start + len(batch), batch
