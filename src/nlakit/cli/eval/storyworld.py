"""`nlakit eval planned` and `steer`: what is fixed and unsaid, and what is put into words."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from nlakit.evals.edited_words import edited_words
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.rows import read_sample
from nlakit.evals.section import Section
from nlakit.pair.pair import Pair
from nlakit.worlds.storyworld.planned import planned as measure_planned
from nlakit.worlds.storyworld.steering import steering as measure_steering

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
from .common import (
    STORYWORLD_DOCUMENTS,
    CorpusOptions,
    Json,
    Output,
    Seed,
    Temperature,
    show,
)


def planned(
    *,
    documents: Annotated[int, Parameter(help="Held-out documents of each kind.")] = 100,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Whether rhymes, sums, answers, counts and drills are named before they are said."""
    show(
        pair,
        devices,
        STORYWORLD_DOCUMENTS,
        lambda loaded, _: measure_planned(loaded, documents, seed, temperature),
        output,
        json,
    )


def steer(
    *,
    documents: Annotated[int, Parameter(help="Held-out documents, a trial in each.")] = 100,
    seed: Seed = 1,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Edit a word of an explanation, and see whether the target comes to expect it.

    In the storyworld it is the rhyme of a couplet, and the target has to rhyme on the new one; of a
    corpus any claim, and the new words have to become likely next.
    """
    show(pair, devices, on, partial(_steered, on, documents, seed), output, json)


def _steered(
    on: CorpusOptions, documents: int, seed: int, loaded: Pair, eval_set: EvalSet
) -> Section:
    if on.corpus is None:
        return measure_steering(loaded, documents, seed)
    return edited_words(read_sample(loaded, eval_set, documents, seed))
