"""`nlakit eval`: an NLA's scores beside their floors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from nlakit.errors import InputError
from nlakit.evals.report import training_curves, write_report
from nlakit.worlds.storyworld.report import StoryworldReport, evaluate

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions


def storyworld(
    *,
    documents: int = 500,
    seed: int = 1,
    temperature: float = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure an NLA against the storyworld, where the truth is known.

    Parameters
    ----------
    documents
        Held-out documents to read, one place in each.
    seed
        Decides which documents.
    temperature
        0 writes the likeliest words.
    output
        Directory for report.json and report.html, which has the curves of the RL that made the
        pair, where their log lies beside it.
    json
        Print one JSON object.
    """
    pair.check()
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")
    report = _measure(pair, devices, documents, seed, temperature)
    if output is not None:
        paths = pair.paths()
        write_report(report, output, training_curves(paths) if paths else ())
    if json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))


def _measure(
    pair: PairOptions, devices: DeviceOptions, documents: int, seed: int, temperature: float
) -> StoryworldReport:
    console = Console(stderr=True)
    with console.status("starting") as status:

        def progress(stage: str) -> None:
            status.update(f"{stage} …")

        progress("loading")
        return evaluate(
            pair.load_for_evaluation(devices),
            documents=documents,
            seed=seed,
            temperature=temperature,
            progress=progress,
        )


def summary(report: StoryworldReport) -> Group:
    """The figures that matter, for a terminal."""
    warnings = [Text(f"! {each}", style="yellow") for each in report.suspicions]
    notes = [Text(each, style="dim") for each in report.notes]
    return Group(_fve_table(report), _claims_table(report), *warnings, *notes)


def _fve_table(report: StoryworldReport) -> Table:
    low, high = report.fve_interval
    table = Table(title=f"{report.nla}: {report.rows} places in {report.documents} documents")
    table.add_column("share of variance explained (FVE)")
    table.add_column("value", justify="right")
    table.add_row("as trained", f"{report.fve:.3f} [{low:.3f}, {high:.3f}]", style="bold")
    table.add_row("warm start", _number(report.fve_warm_start))
    table.add_row("the same words, read by the warm start's AR", _number(report.fve_frozen_ar))
    table.add_row("read by an AR trained on labels only", _number(report.fve_control_ar))
    table.add_row("share kept when re-worded", _number(report.paraphrase_kept))
    for name, value in report.floors.model_dump().items():
        table.add_row(f"floor: {name}", _number(value), style="dim")
    return table


def _claims_table(report: StoryworldReport) -> Table:
    claims = report.claims
    table = Table(
        title=f"claims: precision {_number(claims.precision)}, recall {_number(claims.recall)}, "
        f"of readable facts {_number(claims.readable_recall)}, silent on "
        f"{_number(claims.abstained)}, ECE of confidences {_number(claims.ece)}",
        caption="silent: facts of which nothing is claimed; probe: what a small network reads of "
        "the same fact; efficiency: precision / probe; chance: the commonest value",
    )
    names = ("kind", "precision", "recall", "silent", "claims", "probe", "efficiency", "chance")
    for name in names:
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, scores in claims.per_kind.items():
        probe = report.probes.get(kind)
        rates = (scores.precision, scores.recall, scores.abstained)
        ceiling = (
            probe.mlp if probe else None,
            claims.reading_efficiency.get(kind),
            probe.chance if probe else None,
        )
        cells = [*map(_number, rates), str(scores.claims), *map(_number, ceiling)]
        table.add_row(kind, *cells)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
