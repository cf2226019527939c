"""`nlakit readouts`: what an NLA says at the positions of a benchmark's read plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.console import notice, tell
from nlakit.engines.base import MAX_NEW_TOKENS
from nlakit.evals.readouts import read_plan, write_readouts
from nlakit.pair.bulk import weights_sha256
from nlakit.train.progress import count_progress

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .results import Json, write_json


def readouts(
    plan: Path,
    /,
    *,
    output: Annotated[Path, Parameter(negative=())],
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    json: Json = False,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Read the positions of a read plan, and write them as WorkspaceBench judges them.

    A killed run goes on behind the last item that was written.

    Parameters
    ----------
    plan
        JSONL of `wsbench plan`: items with id, render, positions and text or messages.
    output
        File for the readouts: JSONL with id, layer, pos, token and samples. One that the same NLA
        wrote with the same settings is gone on with; any other that is there is refused.
    samples
        Explanations per position.
    temperature
        0 is greedy decoding; by default 0 for one sample and 1 for several.
    max_new_tokens
        Longest explanation, in tokens.
    seed
        Decides what is sampled above temperature 0.
    devices
        Where models run.
    """
    items = read_plan(plan)
    loaded = pair.load(devices)
    with count_progress("items read", len(items)) as progress:
        made = write_readouts(
            loaded,
            items,
            output,
            weights_sha256(pair.source()),
            samples,
            temperature,
            seed,
            max_new_tokens,
            progress,
        )
    if made.passed_over:
        first, why = next(iter(made.passed_over.items()))
        notice(f"{len(made.passed_over)} items were passed over; {first}: {why}.")
    if made.other_layers:
        notice(
            f"The plan names other layers for {made.other_layers} items; this NLA reads block "
            f"{loaded.card.layer} of all."
        )
    if json:
        write_json({**made._asdict(), "layer": loaded.card.layer, "output": str(output)})
    else:
        tell(f"{output}: {made.rows} positions of {made.items} items at block {loaded.card.layer}")
