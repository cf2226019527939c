"""`nlakit eval confidence`: whether a claim is as likely as its confidence says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.console import notice, notices
from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import pass_over
from nlakit.errors import InputError
from nlakit.evals.confidence import CALIBRATION_DOCUMENTS, CALIBRATION_SEED, fit_confidence
from nlakit.evals.confidence import measure as measure_confidence
from nlakit.evals.outside import confidence_report, with_gates
from nlakit.evals.rows import read_sample
from nlakit.split import Split

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
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

OUTSIDE_CHARACTERS = 200


def confidence(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    thorough: Annotated[bool, Parameter(negative=())] = False,
    outside: Annotated[bool, Parameter(negative=())] = False,
    write: Annotated[bool, Parameter(negative=())] = False,
    outside_corpus: str | None = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """How far the confidence of a claim can be taken at its word.

    Parameters
    ----------
    thorough
        Also read each row four times and its neighbours, for agreement and recurrence.
    outside
        Report confidences as readings show them, and how many claims still carry one on Gaussian
        vectors and on ordinary prose, where all of them count as wrong.
    write
        First fit the calibrator on other held-out documents, and leave it beside the pair as
        calibrator.json, with gates that doubt what lies outside of what the pair knows.
    outside_corpus
        Other text, as `nlakit extract` takes a corpus: with --write the gates are fitted on its
        training split, with --outside measured on its held-out split; by default a few texts of
        ours.
    """
    if write:
        _write(pair, devices, on, outside_corpus)
    if outside:
        other = () if outside_corpus is None else tuple(_texts(outside_corpus, "heldout"))
        _outside(pair, devices, on, documents, seed, temperature, json, other)
        return
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_confidence(
            read_sample(loaded, of, documents, seed, temperature), thorough
        ),
        output,
        json,
    )


def _outside(
    pair: PairOptions,
    devices: DeviceOptions,
    on: CorpusOptions,
    documents: int,
    seed: int,
    temperature: float,
    json: bool,
    texts: Sequence[str],
) -> None:
    pair.check()
    with measuring():
        eval_set = on.eval_set(pair)
        loaded = pair.load_for_evaluation(eval_set, devices)
        sample = read_sample(loaded, eval_set, documents, seed, temperature)
        report = confidence_report(sample, texts)
    if json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        return
    table = Table(title=f"{report.nla}: {report.claims} claims inside, ECE {report.ece:.3f}")
    for name in ("where", "claims", "confidence ≥ 0.9", "≥ 0.5", "mean fidelity"):
        table.add_column(name, justify="left" if name == "where" else "right")
    for name, found in (("text", report.outside.text), ("Gaussian", report.outside.gaussian)):
        shares = (f"{found.share_at_90:.1%}", f"{found.share_at_50:.1%}")
        table.add_row(name, str(found.claims), *shares, f"{found.mean_fidelity:.2f}")
    Console().print(table)


def _write(
    pair: PairOptions, devices: DeviceOptions, on: CorpusOptions, outside_corpus: str | None
) -> None:
    pair.check()
    paths = pair.paths()
    if paths is None:
        raise InputError(
            "--write leaves calibrator.json beside an NLA, and a released pair lies nowhere "
            "that is its own. Leave out --write: a calibrator is then fitted for this report."
        )
    eval_set = on.eval_set(pair)
    with notices().status(f"fitting on {CALIBRATION_DOCUMENTS} documents …"):
        loaded = pair.load_for_evaluation(eval_set, devices)
        fitted = fit_confidence(loaded, eval_set, CALIBRATION_DOCUMENTS, CALIBRATION_SEED)
        other = () if outside_corpus is None else _texts(outside_corpus, "train")
        path = with_gates(loaded, fitted, eval_set, CALIBRATION_DOCUMENTS, other).save(paths.pair)
    notice(f"wrote {path}")


def _texts(source: str, split: Split) -> Iterator[str]:
    """Texts of a corpus, cut to what a small context holds."""
    found = Corpus(source).documents(split, on_refused=pass_over)
    return (each.text[:OUTSIDE_CHARACTERS] for each in found if each.text)
