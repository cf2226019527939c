"""`nlakit eval storyworld` and `eval corpus`: the whole report of a pair, beside its floors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from nlakit.console import notices
from nlakit.engines.base import MAX_NEW_TOKENS
from nlakit.evals.claims import ClaimScores
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.evaluation import PairReport, evaluate
from nlakit.evals.report import training_curves, write_report
from nlakit.worlds.storyworld.eval_set import StoryworldSet

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
from .common import Documents, Json, Seed, Temperature, check_output, corpus_set

ReportOutput = Annotated[
    Path | None,
    Parameter(
        help="Directory for report.json and report.html, which has the curves of the RL that made "
        "the pair, where their log lies beside it."
    ),
]
MaxNewTokens = Annotated[int, Parameter(help="Of an explanation, at most.")]


def storyworld(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: ReportOutput = None,
    json: Json = False,
) -> None:
    """Measure an NLA against the storyworld, where the truth is known.

    One position in each document is read.
    """
    pair.check()
    check_output(output)
    report = _measure(pair, devices, StoryworldSet(), documents, seed, temperature, max_new_tokens)
    _show(report, pair, output, json)


def corpus(
    *,
    corpus: str,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    minimum_position: int | None = None,
    max_tokens: int | None = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: ReportOutput = None,
    json: Json = False,
) -> None:
    """Measure an NLA on held-out documents of your own text.

    One position in each document is read. Claims are checked where the pair's card declares claims
    that can be; the others are left out of the report.

    Parameters
    ----------
    corpus
        .jsonl, .parquet, a folder of texts, or hf:NAME. One eighth of its documents, by content, is
        held out.
    minimum_position
        No position before this token is read; by default as in the pair's training, or 50.
    max_tokens
        Documents are cut there; by default as in the pair's training, or at 1,024.
    """
    pair.check()
    check_output(output)
    eval_set = corpus_set(corpus, pair, minimum_position, max_tokens)
    report = _measure(pair, devices, eval_set, documents, seed, temperature, max_new_tokens)
    _show(report, pair, output, json)


def _show(report: PairReport, pair: PairOptions, output: Path | None, json: bool) -> None:
    if output is not None:
        paths = pair.paths()
        write_report(report, output, training_curves(paths) if paths else ())
    if json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))


def _measure(
    pair: PairOptions,
    devices: DeviceOptions,
    eval_set: EvalSet,
    documents: int,
    seed: int,
    temperature: float,
    max_new_tokens: int,
) -> PairReport:
    with notices().status("loading …") as status:
        return evaluate(
            pair.load_for_evaluation(eval_set, devices),
            eval_set,
            documents=documents,
            seed=seed,
            temperature=temperature,
            progress=lambda stage: status.update(f"{stage} …"),
            max_new_tokens=max_new_tokens,
        )


def summary(report: PairReport) -> Group:
    """The figures that matter, for a terminal."""
    warnings = [Text(f"! {each}", style="yellow") for each in report.suspicions]
    notes = [Text(each, style="dim") for each in report.notes]
    tables = [_fve_table(report)]
    if report.claims is not None:
        tables.append(_claims_table(report, report.claims))
    return Group(*tables, *warnings, *notes)


def _fve_table(report: PairReport) -> Table:
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


def _claims_table(report: PairReport, claims: ClaimScores) -> Table:
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
