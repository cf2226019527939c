"""`nlakit describe`: a file of activations in, explanations in Parquet out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nlakit.console import tell
from nlakit.data.bulk import BulkPlan, VectorSource, explain_vectors
from nlakit.engines.base import MAX_NEW_TOKENS, sampling_for
from nlakit.errors import InputError
from nlakit.pair.bulk import BulkReader, dtype_name, weights_sha256
from nlakit.pair.load import read_facts

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import counting_progress
from .results import Json, write_json
from .workers import HERE, WorkerOptions, place_models


def describe(
    vectors: Path,
    /,
    *,
    output: Path,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    shard_rows: int = 1000,
    json: Json = False,
    pair: PairOptions = BUNDLED,
    workers: WorkerOptions = HERE,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Explain a file of activations, however long, into Parquet. A killed run goes on.

    Parameters
    ----------
    vectors
        N x D numbers as .npy or .safetensors, or a directory of activation shards.
    output
        Directory for explanations-*.parquet, new or of the same run.
    samples
        Explanations per vector.
    temperature
        0 is greedy decoding; by default 0 for one sample and 1 for several.
    max_new_tokens
        Longest answer, in tokens.
    seed
        Decides, with a vector's number, what is sampled above temperature 0.
    shard_rows
        Vectors in a file; so many at most are done again after a kill.
    workers
        Who does the work.
    devices
        Where models run. Several processes stay on the CPU unless --device names another.
    """
    if shard_rows < 1:
        raise InputError(f"--shard-rows must be 1 or more, found {shard_rows}.")
    sampling = sampling_for(samples, temperature, max_new_tokens, seed)
    pool = workers.pool
    # Workers on other machines start in other directories.
    source, parts = VectorSource(vectors.absolute()), pair.source().absolute()
    card, _ = read_facts(parts)
    where = place_models(devices, workers)
    if source.d_model != card.d_model:
        raise InputError(
            f"{vectors} holds vectors of {source.d_model} numbers; {card.name} reads "
            f"{card.d_model}. They must be activations of its target after block {card.layer}."
        )
    plan = BulkPlan(
        nla=card.name,
        nla_sha256=weights_sha256(parts),
        vectors_sha256=source.sha256(),
        num_rows=source.num_rows,
        d_model=source.d_model,
        shard_rows=shard_rows,
        samples=sampling.samples,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
        dtype=dtype_name(where),
    )
    make = partial(BulkReader.load, parts, sampling, where)
    with counting_progress("vectors") as progress:
        manifest = explain_vectors(make, source, output.absolute(), plan, pool, progress)
    bad, files = manifest.num_unreadable, len(manifest.shards)
    if json:
        counts = {"num_rows": plan.num_rows, "num_unreadable": bad, "num_files": files}
        write_json({"output": str(output), **counts})
        return
    passed_over = f" ({bad} not finite, passed over)" if bad else ""
    tell(f"{plan.num_rows} vectors{passed_over} in {files} files: {output}")
