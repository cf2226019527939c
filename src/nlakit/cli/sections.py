"""`nlakit eval private-code` and its like: one section of an evaluation each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.errors import InputError
from nlakit.evals.baselines import baselines as measure_baselines
from nlakit.evals.calibrate import CALIBRATION_DOCUMENTS, CALIBRATION_SEED, fit_confidence
from nlakit.evals.calibrate import measure as measure_confidence
from nlakit.evals.cause import cause as measure_cause
from nlakit.evals.confidence import ClaimConfidence
from nlakit.evals.pair import Pair, load_pair
from nlakit.evals.planned import planned as measure_planned
from nlakit.evals.private_code import private_code as measure_private_code
from nlakit.evals.report import write_section
from nlakit.evals.round_trips import TRIPS
from nlakit.evals.round_trips import round_trips as measure_round_trips
from nlakit.evals.rows import read_sample
from nlakit.evals.section import Section
from nlakit.evals.steering import steering as measure_steering
from nlakit.registry import resolve_pair

Documents = Annotated[int, Parameter(help="Held-out documents.")]
Seed = Annotated[int, Parameter(help="Decides which documents.")]
Temperature = Annotated[float, Parameter(help="0 writes the likeliest words.")]
Nla = Annotated[str | None, Parameter(help="As for `eval storyworld`; by default the bundled one.")]
Output = Annotated[Path | None, Parameter(help="Directory for NAME.json and NAME.html.")]
Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object.")]


def private_code(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Change the explanations without changing what they mean, and see what FVE is left."""
    _show(
        nla,
        lambda pair: measure_private_code(read_sample(pair, documents, seed, temperature)),
        output,
        json,
    )


def cause(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Put the reconstructions into the target, and compare its next tokens."""
    _show(
        nla,
        lambda pair: measure_cause(read_sample(pair, documents, seed, temperature)),
        output,
        json,
    )


def baselines(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Hold the explanations against readers that only look at text, neighbours or logits."""
    _show(
        nla,
        lambda pair: measure_baselines(read_sample(pair, documents, seed, temperature)),
        output,
        json,
    )


def round_trips(
    *,
    documents: Documents = 100,
    trips: Annotated[int, Parameter(help="Times that text is rebuilt and read again.")] = TRIPS,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Read, rebuild and read again, and see what survives."""
    _show(
        nla,
        lambda pair: measure_round_trips(read_sample(pair, documents, seed, temperature), trips),
        output,
        json,
    )


def planned(
    *,
    documents: Annotated[int, Parameter(help="Held-out documents of each kind.")] = 100,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Whether rhymes, sums, answers, counts and drills are named before they are said."""
    _show(nla, lambda pair: measure_planned(pair, documents, seed, temperature), output, json)


def steer(
    *,
    documents: Annotated[int, Parameter(help="Held-out couplets, a trial in each.")] = 100,
    seed: Seed = 1,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Edit the rhyme in an explanation, and see whether the target rhymes on it."""
    _show(nla, lambda pair: measure_steering(pair, documents, seed), output, json)


def confidence(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    thorough: Annotated[bool, Parameter(negative=())] = False,
    write: Annotated[bool, Parameter(negative=())] = False,
    nla: Nla = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """How far the confidence of a claim can be taken at its word.

    Parameters
    ----------
    thorough
        Also read each place four times and its neighbours, for agreement and recurrence.
    write
        First fit the calibrator on other held-out documents, and leave it beside the pair as
        calibrator.json.
    """
    if write:
        path = _fit(nla).save(resolve_pair(nla).pair)
        sys.stderr.write(f"wrote {path}\n")
    _show(
        nla,
        lambda pair: measure_confidence(read_sample(pair, documents, seed, temperature), thorough),
        output,
        json,
    )


def _fit(nla: str | None) -> ClaimConfidence:
    with Console(stderr=True).status(f"fitting on {CALIBRATION_DOCUMENTS} documents …"):
        return fit_confidence(load_pair(nla), CALIBRATION_DOCUMENTS, CALIBRATION_SEED)


def _show(
    nla: str | None, measure: Callable[[Pair], Section], output: Path | None, json: bool
) -> None:
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")
    with Console(stderr=True).status("measuring …"):
        section = measure(load_pair(nla))
    if output is not None:
        write_section(section, output)
    if json:
        sys.stdout.write(section.model_dump_json(indent=2) + "\n")
    else:
        Console().print(section)
