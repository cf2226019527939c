"""`nlakit eval sae`: a sparse autoencoder's figures."""

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
from nlakit.sae.facts import FactReport
from nlakit.sae.measure import SaeReport, measure
from nlakit.worlds.storyworld.sae import CORPUS_NAME

from ..devices import AUTOMATIC, DeviceOptions
from ..progress import counting_progress
from ..saes import load_sae, target_of, texts_of

SHOWN_FACTS = 12


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
