"""`nlakit eval compare`: whether one pair is truer than another, on the same rows."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nlakit.errors import InputError
from nlakit.evals.compare import compare as measure

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


def compare(
    other: Annotated[
        str | None, Parameter(help="The second pair, named or a directory, as in --nla.")
    ] = None,
    /,
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    other_av: str | None = None,
    other_ar: str | None = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """FVE, precision and recall of the pair minus those of OTHER, each with its interval.

    Both read the same rows, and FVE of both is held against the mean of the first.

    Parameters
    ----------
    other_av
        Instead of OTHER: directory or hub name of the second verbalizer, over the same target.
    other_ar
        The reconstructor of the second pair.
    """
    second = _other(other, other_av, other_ar, pair)
    second.check()
    show(
        pair,
        devices,
        on,
        lambda loaded, of: measure(
            loaded, second.load_for_evaluation(of, devices), of, documents, seed, temperature
        ),
        output,
        json,
    )


def _other(name: str | None, av: str | None, ar: str | None, first: PairOptions) -> PairOptions:
    """The second pair of a comparison; its parts are over the target of the first."""
    if (name is None) == (av is None and ar is None):
        raise InputError("Give OTHER, or --other-av and --other-ar: the pair to compare with.")
    if name is not None:
        return PairOptions(nla=name)
    return PairOptions(av=av, ar=ar, target=str(first.source().target), mean=first.mean)
