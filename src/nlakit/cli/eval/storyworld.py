"""`nlakit eval planned` and `steer`: what can be asked only where the plans are known."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nlakit.worlds.storyworld.planned import planned as measure_planned
from nlakit.worlds.storyworld.steering import steering as measure_steering

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
from .common import STORYWORLD_DOCUMENTS, Json, Output, Seed, Temperature, show


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
    documents: Annotated[int, Parameter(help="Held-out couplets, a trial in each.")] = 100,
    seed: Seed = 1,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Edit the rhyme in an explanation, and see whether the target rhymes on it."""
    show(
        pair,
        devices,
        STORYWORLD_DOCUMENTS,
        lambda loaded, _: measure_steering(loaded, documents, seed),
        output,
        json,
    )
