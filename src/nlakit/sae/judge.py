"""Latents as a judge of claims, and latents beside an NLA: who knows which fact?

A latent is tied to a fact where it says the fact well on documents of its own (`choose_latents`). A
claim of that fact is then supported by an activation if the latent is active in it. What is known
comes from the claim system's checker, so any world with known facts will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nlakit.claim import Claim
from nlakit.claims.system import Checker, ClaimSystem
from nlakit.config import FrozenModel
from nlakit.core.saes.metrics import count
from nlakit.errors import InputError
from nlakit.evals.eval_set import EvalRows
from nlakit.evals.rows import ReadSample
from nlakit.evals.section import Figure, Line, Section, share

from .autoencoder import SparseAutoencoder
from .facts import FactReport, LabelledRows, score_facts
from .measure import check_fits

TIED_F1 = 0.8
"""From here on a latent is taken to say a fact."""
MINIMUM_ROWS = 10
ABOUT = (
    "claims of facts that a latent is tied to; true: share of them that are; a judge who knew all "
    "would support every true claim and no false one"
)


@dataclass(frozen=True)
class TiedLatent:
    """A latent that says a fact when it is above a threshold."""

    latent: int
    threshold: float


Ties = Mapping[str, TiedLatent]


class LatentJudge:
    """Says of claims whether the activation has the latent of what they say."""

    def __init__(self, sae: SparseAutoencoder, ties: Ties) -> None:
        self.sae, self.ties = sae, ties

    def supports(self, claim: Claim, latents_M: Tensor) -> bool | None:
        """Whether an activation with these latents supports a claim; None: no latent is tied."""
        tie = self.ties.get(name_of(claim.kind, claim.value))
        return None if tie is None else bool(latents_M[tie.latent] > tie.threshold)

    def latents(self, vectors_ND: Tensor) -> Tensor:
        """Latents N x M of activations, on the CPU."""
        return self.sae.encode(vectors_ND.to(self.sae.device).float()).cpu()


def name_of(kind: str, value: str) -> str:
    """A fact as one word."""
    return f"{kind}={value}"


def facts_of(rows: EvalRows, checker: Checker) -> list[frozenset[str]]:
    """The facts of each row. Raises `InputError` where nobody knows any."""
    if rows.states is None:
        raise InputError("Nobody knows what is true of these documents. Give some whose facts are.")
    return [
        frozenset(
            name_of(kind, value)
            for kind, fact in checker.facts(state).items()
            for value in fact.values
        )
        for state in rows.states
    ]


def fact_scores(sae: SparseAutoencoder, rows: EvalRows, checker: Checker) -> FactReport:
    """Scores of an autoencoder's latents on rows of an evaluation set. Raises `InputError`."""
    latents_NM = sae.encode(rows.vectors_ND.to(sae.device).float()).cpu()
    labelled = LabelledRows(rows.vectors_ND, latents_NM, facts_of(rows, checker), rows.doc_ids)
    return score_facts(labelled, sae.directions.cpu())


def ties_of(report: FactReport) -> Ties:
    """The latents that are tied to a fact."""
    return {
        each.fact: TiedLatent(each.latent, each.threshold)
        for each in report.scores
        if each.f1 >= TIED_F1
    }


def judged_claims(sample: ReadSample, judge: LatentJudge, name: str) -> Section:
    """Claims that latents support, do not support, or would support of another document.

    Raises:
        InputError: an autoencoder of another site, or nobody knows what is true.
    """
    check_fits(judge.sae, sample.pair.target)
    states, system = sample.known_states(), sample.claims
    latents_NM = judge.latents(sample.vectors_ND)
    other = sample.other_documents()
    own, foreign, truth, documents = [], [], [], []
    for row, text in enumerate(sample.reading.texts):
        for claim in system.find(text):
            said = judge.supports(claim, latents_NM[row])
            verdict = system.known().check(claim, states[row])
            if said is None or verdict == "uncheckable":
                continue
            own.append(said)
            foreign.append(bool(judge.supports(claim, latents_NM[other[row]])))
            truth.append(verdict == "true")
            documents.append(sample.doc_ids[row])
    return sample.section(
        "latent-claims",
        f"claims judged by latents of {name}",
        ABOUT,
        _lines(own, foreign, truth, documents),
    )


def _lines(
    own: Sequence[bool], foreign: Sequence[bool], truth: Sequence[bool], documents: Sequence[str]
) -> list[Line]:
    not_own = [not said for said in own]
    lies = [not held for held in truth]
    everything = {"true": share(truth, documents)}
    return [
        Line(name="all claims", figures=everything, floor=True),
        Line(name="supported", figures={"true": share(truth, documents, own)}),
        Line(name="not supported", figures={"true": share(truth, documents, not_own)}),
        _judge_line("the activation's own latents", own, truth, lies, documents),
        _judge_line("latents of another document", foreign, truth, lies, documents, floor=True),
    ]


def _judge_line(
    name: str,
    said: Sequence[bool],
    truth: Sequence[bool],
    lies: Sequence[bool],
    documents: Sequence[str],
    floor: bool = False,
) -> Line:
    figures: dict[str, Figure] = {
        "true claims supported": share(said, documents, truth),
        "false claims supported": share(said, documents, lies),
    }
    return Line(name=name, figures=figures, floor=floor)


# -- beside an NLA ---------------------------------------------------------------------------------
class FactBeside(FrozenModel):
    """One fact: how well a latent says it, and how well explanations claim it, on the same rows."""

    fact: str
    rows: int
    latent: int
    sae_f1: float
    nla_f1: float
    dense: float
    """F1 of a linear probe, on the documents that latents were chosen by."""


class BesideReport(FrozenModel):
    """An autoencoder and an NLA on the same rows."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_beside_nla"] = "sae_beside_nla"
    sae: str
    nla: str
    documents: int
    rows: int
    seed: int
    both: int
    """Facts that both say with F1 ≥ 0.9."""
    sae_only: int
    nla_only: int
    neither: int
    facts: tuple[FactBeside, ...]


def beside(
    sample: ReadSample, sae: SparseAutoencoder, chosen: FactReport, name: str
) -> BesideReport:
    """Hold latents, chosen on other documents, and explanations against the same facts.

    An explanation says a fact where it makes a claim of it.

    Raises:
        InputError: an autoencoder of another site, nobody knows what is true, or no fact occurs.
    """
    check_fits(sae, sample.pair.target)
    sample.known_states()
    facts = facts_of(sample.sample, sample.claims.known())
    said = [_claimed(sample.claims, text) for text in sample.reading.texts]
    latents_NM = LatentJudge(sae, {}).latents(sample.vectors_ND)
    found = []
    for score in chosen.scores:
        held_N = torch.tensor([score.fact in each for each in facts])
        if held_N.sum() < MINIMUM_ROWS:
            continue
        columns_N2 = torch.stack(
            [
                latents_NM[:, score.latent] > score.threshold,
                torch.tensor([score.fact in each for each in said]),
            ],
            dim=1,
        )
        sae_f1, nla_f1 = count(columns_N2, held_N).f1_M.tolist()
        found.append(
            FactBeside(
                fact=score.fact,
                rows=int(held_N.sum()),
                latent=score.latent,
                sae_f1=sae_f1,
                nla_f1=nla_f1,
                dense=score.dense,
            )
        )
    if not found:
        raise InputError(f"No fact holds at {MINIMUM_ROWS} rows. Read more documents.")
    return _beside_report(sample, name, found)


def _claimed(system: ClaimSystem, text: str) -> frozenset[str]:
    return frozenset(name_of(claim.kind, claim.value) for claim in system.find(text))


def _beside_report(sample: ReadSample, name: str, found: Sequence[FactBeside]) -> BesideReport:
    good = [(each.sae_f1 >= 0.9, each.nla_f1 >= 0.9) for each in found]
    return BesideReport(
        sae=name,
        nla=sample.pair.name,
        documents=len(set(sample.doc_ids)),
        rows=len(sample.doc_ids),
        seed=sample.seed,
        both=good.count((True, True)),
        sae_only=good.count((True, False)),
        nla_only=good.count((False, True)),
        neither=good.count((False, False)),
        facts=tuple(found),
    )
