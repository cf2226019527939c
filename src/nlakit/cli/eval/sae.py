"""`nlakit eval sae`, and an autoencoder beside an NLA."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.table import Table

from nlakit.config import write_text_atomic
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.rows import read_sample
from nlakit.evals.section import Section
from nlakit.pair.pair import Pair
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.facts import FactReport
from nlakit.sae.judge import (
    BesideReport,
    LatentJudge,
    beside,
    fact_scores,
    judged_claims,
    ties_of,
)
from nlakit.sae.measure import SaeReport, measure
from nlakit.sae.witness import witness as measure_witness
from nlakit.worlds.storyworld.sae import CORPUS_NAME

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
from ..progress import counting_progress
from ..saes import load_sae, target_of, texts_of
from .common import (
    STORYWORLD_DOCUMENTS,
    CorpusOptions,
    Documents,
    Json,
    Output,
    Seed,
    Temperature,
    measuring,
    show,
)

SHOWN_FACTS = 12
CHOOSE_SEED, POSITIONS = 500_000, 24
"""Added to the seed of the rows that are scored, for those that latents are chosen on; and how many
of the latter each document gives."""


def sae(
    *,
    sae: str,
    corpus: str = CORPUS_NAME,
    documents: int = 300,
    seed: int = 90_001,
    target: str | None = None,
    max_tokens: int = 256,
    devices: DeviceOptions = AUTOMATIC,
    output: Annotated[Path | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure a sparse autoencoder on held-out texts.

    Parameters
    ----------
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    corpus
        storyworld, where facts are known, or a corpus as `nlakit extract` takes it.
    documents
        Held-out documents.
    seed
        Decides which, in the storyworld.
    target
        The model whose activations it reads; by default the one that it names.
    max_tokens
        Of each document of a corpus.
    devices
        Where the target runs.
    output
        File for the report.
    json
        Print one JSON object.
    """
    if documents < 2:
        raise InputError(f"--documents {documents}: two are needed for intervals.")
    autoencoder = load_sae(sae)
    model = target_of(autoencoder, target, devices)
    texts = texts_of(corpus, seed, max_tokens)
    with counting_progress("measuring") as progress:
        report = measure(
            autoencoder.to(model.model.device),
            model,
            texts,
            name=sae,
            documents=documents,
            seed=seed,
            progress=progress,
        )
    if output is not None:
        write_text_atomic(output, report.model_dump_json(indent=2) + "\n")
    if json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))


def summary(report: SaeReport) -> Group:
    """The figures, for a terminal."""
    title = f"{report.sae}: {report.trained_as}, {report.rows} rows of {report.documents} documents"
    table = Table(title=title)
    table.add_column("")
    table.add_column("value", justify="right")
    rows = {
        "fraction of variance explained (FVE)": (report.fve, report.fve_interval),
        "active latents per row (L0)": (report.l0, report.l0_interval),
        "next-token loss recovered": (report.ce_recovered, report.ce_recovered_interval),
        "KL recovered": (report.kl_recovered, report.kl_recovered_interval),
        "latents alive": (report.alive, None),
        "smoothness (lower is smoother)": (report.smoothness, None),
    }
    for name, (value, interval) in rows.items():
        table.add_row(name, shown(value, interval))
    return Group(table) if report.facts is None else Group(table, fact_table(report.facts))


def shown(value: float | None, interval: Interval | None) -> str:
    """A number with its interval, for the eye."""
    if value is None:
        return "–"
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def fact_table(report: FactReport) -> Table:
    """The facts with the best latents."""
    table = Table(
        title=f"{report.found} of {report.total} facts have a latent with F1 ≥ 0.9; a linear probe "
        f"of the activation knows {report.readable}",
        caption="split: latents that together say the fact",
    )
    for name in ("fact", "latent", "F1", "precision", "recall", "dense probe", "split"):
        table.add_column(name, justify="left" if name == "fact" else "right")
    best = sorted(report.scores, key=lambda each: -each.f1)[:SHOWN_FACTS]
    for each in best:
        numbers = (each.f1, each.precision, each.recall, each.dense)
        cells = [f"{number:.3f}" for number in numbers]
        table.add_row(each.fact, str(each.latent), *cells, str(len(each.split)))
    return table


def witness(
    *,
    sae: str,
    documents: Documents = 300,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Encode activations and what their explanations rebuild, and compare the latents.

    Parameters
    ----------
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    """
    autoencoder = load_sae(sae)
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_witness(
            read_sample(loaded, of, documents, seed, temperature), autoencoder, sae
        ),
        output,
        json,
    )


def latent_claims(
    *,
    sae: str,
    documents: Documents = 500,
    choose: Annotated[int, Parameter(help="Documents that latents are tied to facts on.")] = 300,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Let latents judge the claims of explanations, where the truth is known.

    Parameters
    ----------
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    """
    autoencoder = load_sae(sae)

    def judged(loaded: Pair, of: EvalSet) -> Section:
        sample = read_sample(loaded, of, documents, seed, temperature)
        judge = LatentJudge(autoencoder, ties_of(_chosen(autoencoder, loaded, of, choose, seed)))
        return judged_claims(sample, judge, sae)

    show(pair, devices, STORYWORLD_DOCUMENTS, judged, output, json)


def latent_facts(
    *,
    sae: str,
    documents: Documents = 2000,
    choose: Annotated[int, Parameter(help="Documents that latents are chosen on.")] = 300,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Annotated[Path | None, Parameter(negative=())] = None,
    json: Json = False,
) -> None:
    """Hold latents and explanations against the same known facts of the same rows.

    Parameters
    ----------
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    output
        File for the report.
    """
    autoencoder = load_sae(sae)
    pair.check()
    with measuring():
        of = STORYWORLD_DOCUMENTS.eval_set(pair)
        loaded = pair.load_for_evaluation(of, devices)
        chosen = _chosen(autoencoder, loaded, of, choose, seed)
        sample = read_sample(loaded, of, documents, seed, temperature)
        report = beside(sample, autoencoder, chosen, sae)
    text = report.model_dump_json(indent=2) + "\n"
    if output is not None:
        write_text_atomic(output, text)
    if json:
        sys.stdout.write(text)
    else:
        Console().print(beside_table(report))


def _chosen(
    autoencoder: SparseAutoencoder, loaded: Pair, of: EvalSet, documents: int, seed: int
) -> FactReport:
    """Latents chosen on documents of another seed, many positions in each."""
    rows = of.sample(loaded.target, "heldout", seed + CHOOSE_SEED, documents, POSITIONS)
    return fact_scores(autoencoder, rows, of.claims.known())


def beside_table(report: BesideReport) -> Table:
    """The facts on which the two differ most, for a terminal."""
    table = Table(
        title=f"{report.rows} rows; facts with F1 ≥ 0.9: both {report.both}, only {report.sae} "
        f"{report.sae_only}, only {report.nla} {report.nla_only}, neither {report.neither}"
    )
    for name in ("fact", "rows", "latent F1", "explanation F1"):
        table.add_column(name, justify="left" if name == "fact" else "right")
    ordered = sorted(report.facts, key=lambda each: each.sae_f1 - each.nla_f1)
    shown_facts = ordered if len(ordered) <= SHOWN_FACTS else [*ordered[:6], *ordered[-6:]]
    for each in shown_facts:
        table.add_row(each.fact, str(each.rows), f"{each.sae_f1:.3f}", f"{each.nla_f1:.3f}")
    return table
