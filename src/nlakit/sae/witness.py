"""An autoencoder as witness of an NLA: are the latents of the activation still there in what the
explanation rebuilds?

Both encode the same site. Latents of h that AR(explanation) has too are shared, those it lacks are
lost, and those it has of its own are invented. The reconstruction knows no norm, so it is brought
to that of h first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.metrics import jaccard
from nlakit.engines.base import Sampling
from nlakit.evals.floors import GENERIC_EXPLANATION
from nlakit.evals.rows import ReadSample
from nlakit.evals.section import Figure, Line, Section, ratio_figure, share
from nlakit.models.target import Encoded
from nlakit.pair.pair import Pair

from .autoencoder import SparseAutoencoder
from .dashboard import DirectionReading
from .features import ActiveLatent
from .measure import check_fits, check_latents

SILENT = "latents that are silent in the activation"
ABOUT = (
    "latents a position that the activation and AR(explanation) both have (shared), that the "
    "activation alone has (lost), and AR(explanation) alone (invented); Jaccard: shared of all "
    "three, precision: of those of AR(explanation), recall: of the activation's, weight: of the "
    "sum of the activation's latents"
)


@dataclass(frozen=True)
class Overlap:
    """Latents of N activations and of their reconstructions."""

    h_NM: Float[Tensor, "N M"]
    h_hat_NM: Float[Tensor, "N M"]

    @cached_property
    def both_NM(self) -> Bool[Tensor, "N M"]:
        """Active in the two."""
        return (self.h_NM > 0) & (self.h_hat_NM > 0)

    def silent_figures(self, documents: Sequence[str]) -> dict[str, Figure]:
        """The null of recall: latents that are silent in h, weighted by how common they are."""
        silent_NM = (self.h_NM > 0).double().mean(0) * ~(self.h_NM > 0)
        made_N = (silent_NM * (self.h_hat_NM > 0)).sum(-1)
        return {"recall": ratio_figure(made_N, silent_NM.sum(-1), documents)}

    def figures(self, documents: Sequence[str]) -> dict[str, Figure]:
        """Means over rows, with intervals by document."""
        both_N = self.both_NM.sum(-1).double()
        one_N = torch.ones_like(both_N)
        counts = {
            "shared": both_N,
            "lost": _count(self.h_NM) - both_N,
            "invented": _count(self.h_hat_NM) - both_N,
        }
        weight_N = (self.h_NM * self.both_NM).sum(-1).double()
        return {
            **{name: ratio_figure(n_N, one_N, documents) for name, n_N in counts.items()},
            "Jaccard": share(jaccard(self.h_NM > 0, self.h_hat_NM > 0).tolist(), documents),
            "precision": ratio_figure(both_N, _count(self.h_hat_NM), documents),
            "recall": ratio_figure(both_N, _count(self.h_NM), documents),
            "weight": ratio_figure(weight_N, self.h_NM.sum(-1).double(), documents),
        }


def overlap(
    sae: SparseAutoencoder, h_ND: Float[Tensor, "N D"], h_hat_ND: Float[Tensor, "N D"]
) -> Overlap:
    """Encode activations and reconstructions, these at the norm of those."""
    return Overlap(_encode(sae, h_ND), _encode(sae, at_norm_of(h_hat_ND, h_ND)))


def at_norm_of(h_hat_ND: Float[Tensor, "N D"], h_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Reconstructions at the norms of activations."""
    unit_ND = torch.nn.functional.normalize(h_hat_ND.float(), dim=-1)
    return unit_ND * h_ND.float().norm(dim=-1, keepdim=True)


def witness(sample: ReadSample, sae: SparseAutoencoder, name: str) -> Section:
    """How many latents explanations keep, beside explanations of other documents and none at all.

    Raises:
        InputError: the autoencoder is of another site than the pair.
    """
    check_fits(sae, sample.pair.target)
    h_ND, h_hat_ND = sample.vectors_ND, sample.reading.h_hat_ND
    documents = sample.doc_ids
    generic_D = sample.pair.rebuild([GENERIC_EXPLANATION])[0]
    # The pair's mean is of vectors at norm √d, as is everything here after `at_norm_of`.
    rows = {
        "explanation": h_hat_ND,
        "explanation of another document": h_hat_ND[sample.other_documents()],
        "one generic explanation": generic_D.expand_as(h_ND),
        "mean activation": sample.pair.mean_D.expand_as(h_ND),
    }
    lines = [
        Line(
            name=key,
            figures=overlap(sae, h_ND, rebuilt_ND).figures(documents),
            floor=key != "explanation",
        )
        for key, rebuilt_ND in rows.items()
    ]
    silent = overlap(sae, h_ND, h_hat_ND).silent_figures(documents)
    lines.append(Line(name=SILENT, figures=silent, floor=True))
    title = f"latents of {name} that explanations keep"
    return sample.section("witness", title, ABOUT, lines)


# -- one text --------------------------------------------------------------------------------------
class WitnessedToken(FrozenModel):
    """One token: its explanation, and what became of its latents."""

    position: int
    token: str
    explanation: str
    fidelity: float
    jaccard: float
    shared: tuple[ActiveLatent, ...]
    """Strongest first, with the activation that they have in h; so of the lost ones."""
    lost: tuple[ActiveLatent, ...]
    invented: tuple[ActiveLatent, ...]
    """With the activation that they have in the reconstruction."""
    residual: str | None = None
    """What the NLA says of h - SAE(h), where it was asked: no activation looks like that, so
    nothing that it says is calibrated."""
    residual_fidelity: float | None = None


class WitnessedText(FrozenModel):
    """A text read by an NLA with an autoencoder as witness."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_witness"] = "sae_witness"
    nla: str
    sae: str
    text: str
    tokens: tuple[WitnessedToken, ...]


def witness_text(
    pair: Pair,
    sae: SparseAutoencoder,
    text: str,
    *,
    name: str,
    positions: Sequence[int] | None = None,
    last: int | None = None,
    residual: bool = False,
    labels: Mapping[int, str] | None = None,
) -> WitnessedText:
    """Read a text and hold each explanation against the activation's latents.

    Args:
        residual: let the NLA read what the autoencoder leaves out, too.

    Raises:
        InputError: as `Pair.explain`, or an autoencoder of another site.
    """
    check_fits(sae, pair.target)
    reading = pair.explain(text, positions, last=last)
    encoded = pair.encode(text)
    places = [each.position for each in reading.tokens]
    h_ND = pair.target.activations([encoded.ids], [places])[0].cpu()
    h_hat_ND = pair.rebuild([each.explanation for each in reading.tokens])
    found = overlap(sae, h_ND, h_hat_ND)
    residuals = _read_residuals(pair, sae, h_ND) if residual else [(None, None)] * len(places)
    jaccard_N = jaccard(found.h_NM > 0, found.h_hat_NM > 0).tolist()
    fates = [_fates(found, row, labels or {}) for row in range(len(places))]
    return WitnessedText(
        nla=pair.name,
        sae=name,
        text=encoded.text,
        tokens=tuple(
            WitnessedToken(
                position=each.position,
                token=each.token,
                explanation=each.explanation,
                fidelity=each.fidelity,
                jaccard=jaccard_N[row],
                shared=fates[row].shared,
                lost=fates[row].lost,
                invented=fates[row].invented,
                residual=residuals[row][0],
                residual_fidelity=residuals[row][1],
            )
            for row, each in enumerate(reading.tokens)
        ),
    )


def witness_explanation(
    pair: Pair,
    sae: SparseAutoencoder,
    encoded: Encoded,
    position: int,
    explanation: str,
    labels: Mapping[int, str] | None = None,
    *,
    residual: bool = False,
) -> WitnessedToken:
    """Hold one explanation, whoever wrote it, against the latents of a token.

    Args:
        residual: let the NLA read what the autoencoder leaves out, too.

    Raises:
        InputError: an autoencoder of another site.
    """
    check_fits(sae, pair.target)
    h_1D = pair.target.activations([encoded.ids], [[position]])[0].cpu()
    h_hat_1D = pair.rebuild([explanation])
    found = overlap(sae, h_1D, h_hat_1D)
    fates = _fates(found, 0, labels or {})
    ((said, fits),) = _read_residuals(pair, sae, h_1D) if residual else [(None, None)]
    return WitnessedToken(
        position=position,
        token=encoded.tokens[position],
        explanation=explanation,
        fidelity=pair.score(explanation, h_1D).fidelity,
        jaccard=jaccard(found.h_NM > 0, found.h_hat_NM > 0).item(),
        shared=fates.shared,
        lost=fates.lost,
        invented=fates.invented,
        residual=said,
        residual_fidelity=fits,
    )


class _Fates(NamedTuple):
    """Latents of one row, strongest first."""

    shared: tuple[ActiveLatent, ...]
    lost: tuple[ActiveLatent, ...]
    invented: tuple[ActiveLatent, ...]


def _fates(found: Overlap, row: int, labels: Mapping[int, str]) -> _Fates:
    both_M = found.both_NM[row]
    return _Fates(
        _latents(found.h_NM[row] * both_M, labels),
        _latents(found.h_NM[row] * ~both_M, labels),
        _latents(found.h_hat_NM[row] * ~both_M, labels),
    )


def _read_residuals(
    pair: Pair, sae: SparseAutoencoder, h_ND: Tensor
) -> list[tuple[str | None, float | None]]:
    left_ND = h_ND - sae.reconstruct(h_ND.to(sae.device)).cpu()
    answers, scores = pair.answers(left_ND, Sampling())
    return [(a.text, s.fidelity) for a, s in zip(answers, scores, strict=True)]


def _latents(row_M: Tensor, labels: Mapping[int, str]) -> tuple[ActiveLatent, ...]:
    order = row_M.argsort(descending=True)[: int((row_M > 0).sum())]
    return tuple(
        ActiveLatent(index=i, activation=row_M[i].item(), label=labels.get(i))
        for i in order.tolist()
    )


# -- directions as text ----------------------------------------------------------------------------
def read_directions(
    pair: Pair,
    sae: SparseAutoencoder,
    latents: Sequence[int],
    sample_ND: Float[Tensor, "N D"],
    labels: Mapping[int, str] | None = None,
) -> list[DirectionReading]:
    """Decoder directions as text: each alone, and added to the mean activation at the strength that
    the latent has where it is active.

    Args:
        sample_ND: raw activations of the site, from which mean and strengths are taken.

    Raises:
        InputError: no such latent, or an autoencoder of another site.
    """
    check_fits(sae, pair.target)
    check_latents(sae, latents)
    mean_D = sample_ND.float().mean(0)
    strength_M = _strengths(sae, sample_ND)
    cosine_N = torch.cosine_similarity(sample_ND.float(), mean_D, dim=-1)
    found = []
    for latent in latents:
        direction_D = sae.weights["W_dec"][latent].cpu().float() * strength_M[latent]
        for kind, vector_D in (
            ("direction", direction_D),
            ("mean + direction", mean_D + direction_D),
        ):
            cosine = torch.cosine_similarity(vector_D, mean_D, dim=0).item()
            ((answer,), (score,)) = pair.answers(vector_D[None], Sampling())
            rebuilt_1D = at_norm_of(pair.rebuild([answer.text]), vector_D[None])
            found.append(
                DirectionReading(
                    nla=pair.name,
                    latent=latent,
                    label=(labels or {}).get(latent),
                    vector=kind,  # type: ignore[arg-type]
                    explanation=answer.text,
                    fidelity=score.fidelity,
                    off_manifold=cosine / cosine_N.mean().item(),
                    says_it=bool(_encode(sae, rebuilt_1D)[0, latent] > 0),
                )
            )
    return found


def _strengths(sae: SparseAutoencoder, sample_ND: Tensor) -> Tensor:
    """Mean activation of each latent where it is active; 1 of one that never is."""
    latents_NM = _encode(sae, sample_ND)
    count_M = (latents_NM > 0).sum(0)
    mean_M = latents_NM.sum(0) / count_M.clamp_min(1)
    return torch.where(count_M > 0, mean_M, torch.ones_like(mean_M))


def _encode(sae: SparseAutoencoder, x_ND: Tensor) -> Tensor:
    return sae.encode(x_ND.to(sae.device).float()).cpu()


def _count(latents_NM: Tensor) -> Tensor:
    return (latents_NM > 0).sum(-1).double()
