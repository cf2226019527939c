"""`nlakit eval confidence`: whether a claim is as likely as its confidence says."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.claims.confidence import ClaimConfidence
from nlakit.errors import InputError
from nlakit.evals.confidence import CALIBRATION_DOCUMENTS, CALIBRATION_SEED, fit_confidence
from nlakit.evals.confidence import measure as measure_confidence
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.rows import read_sample

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
    show,
)


def confidence(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    thorough: Annotated[bool, Parameter(negative=())] = False,
    write: Annotated[bool, Parameter(negative=())] = False,
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
    write
        First fit the calibrator on other held-out documents, and leave it beside the pair as
        calibrator.json.
    """
    if write:
        _write(pair, devices, on)
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


def _write(pair: PairOptions, devices: DeviceOptions, on: CorpusOptions) -> None:
    pair.check()
    paths = pair.paths()
    if paths is None:
        raise InputError(
            "--write leaves calibrator.json beside an NLA, and a released pair lies nowhere "
            "that is its own. Leave out --write: a calibrator is then fitted for this report."
        )
    path = _fit(pair, devices, on.eval_set(pair)).save(paths.pair)
    sys.stderr.write(f"wrote {path}\n")


def _fit(pair: PairOptions, devices: DeviceOptions, eval_set: EvalSet) -> ClaimConfidence:
    with Console(stderr=True).status(f"fitting on {CALIBRATION_DOCUMENTS} documents …"):
        return fit_confidence(
            pair.load_for_evaluation(eval_set, devices),
            eval_set,
            CALIBRATION_DOCUMENTS,
            CALIBRATION_SEED,
        )
