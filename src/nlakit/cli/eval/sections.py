"""`nlakit eval cause`, `suffix`, `where`, `baselines`, `round-trips`, `select`: a section each."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nlakit.errors import InputError
from nlakit.evals.baselines import baselines as measure_baselines
from nlakit.evals.cause import cause as measure_cause
from nlakit.evals.round_trips import TRIPS
from nlakit.evals.round_trips import round_trips as measure_round_trips
from nlakit.evals.rows import read_sample
from nlakit.evals.select import select as measure_select
from nlakit.evals.suffix import CANDIDATES, SUFFIX_TOKENS
from nlakit.evals.suffix import suffix_prediction as measure_suffix
from nlakit.evals.where import where as measure_where

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
    check_output,
    give,
    measuring,
    show,
)


def cause(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Put the reconstructions into the target, and compare its next tokens."""
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_cause(read_sample(loaded, of, documents, seed, temperature)),
        output,
        json,
    )


def suffix(
    *,
    documents: Documents = 200,
    candidates: Annotated[int, Parameter(help="Continuations to choose from.")] = CANDIDATES,
    tokens: Annotated[int, Parameter(help="Length of each.")] = SUFFIX_TOKENS,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Tell the true continuation from others of the same document, by the explanation alone.

    The target itself judges, by how much likelier the explanation makes each of them; topic, last
    token, logit lens and the text itself stand beside it.
    """
    if candidates < 2 or tokens < 1:
        raise InputError(
            f"--candidates {candidates} and --tokens {tokens}: expected 2 candidates or more, of 1 "
            "token or more."
        )
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_suffix(
            read_sample(loaded, of, documents, seed, temperature), candidates, tokens
        ),
        output,
        json,
    )


def where(
    *,
    documents: Documents = 1000,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Hold apart where the pair reads well: by kind of token, and by what is said and whether it is
    true."""
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_where(read_sample(loaded, of, documents, seed, temperature)),
        output,
        json,
    )


def baselines(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Compare the explanations with baselines that read text, neighbours or logits.

    One of them seeks a text with the same activation, at about a third of a second a document.
    """
    check_output(output)
    pair.check()
    with measuring() as tell:
        eval_set = on.eval_set(pair)
        sample = read_sample(
            pair.load_for_evaluation(eval_set, devices), eval_set, documents, seed, temperature
        )
        section = measure_baselines(sample, progress=tell)
    give(section, output, json)


def round_trips(
    *,
    documents: Documents = 100,
    trips: Annotated[int, Parameter(help="Times that text is rebuilt and read again.")] = TRIPS,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Read, rebuild and read again, and see what survives."""
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_round_trips(
            read_sample(loaded, of, documents, seed, temperature), trips
        ),
        output,
        json,
    )


def select(
    *,
    documents: Documents = 200,
    seed: Seed = 1,
    temperature: Annotated[float, Parameter(help="That explanations are sampled at.")] = 1.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Sample 1, 4 and 8 explanations and keep the best by fidelity, and by confidence."""
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure_select(loaded, of, documents, seed, temperature),
        output,
        json,
    )
