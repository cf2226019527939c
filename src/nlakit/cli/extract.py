"""`nlakit extract`: reads the activations of a corpus into shards."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from nlakit.console import notice
from nlakit.data.corpora import HUGGING_FACE, Corpus
from nlakit.data.corpus_extraction import Workers, extract_corpus
from nlakit.data.pools import HERE as THIS_PROCESS
from nlakit.data.shards import Manifest
from nlakit.errors import InputError
from nlakit.models.hub import locate
from nlakit.pair.load import load_target, read_facts
from nlakit.split import Split
from nlakit.train.progress import count_progress

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .results import Json, write_json
from .workers import HERE, WorkerOptions, place_models

CPU = torch.device("cpu")


def extract(
    *,
    corpus: str,
    output: Path,
    layer: int | None = None,
    documents: int = 1000,
    positions: int = 5,
    minimum_position: int = 50,
    max_tokens: int = 1024,
    split: Split = "train",
    next_tokens: int = 0,
    shard_rows: int = 20_000,
    json: Json = False,
    pair: PairOptions = BUNDLED,
    workers: WorkerOptions = HERE,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Read a corpus with a target into shards of raw activations; a killed run is continued.

    The target is --target with --layer, or that of a pair: --nla, or --av and --ar.

    Parameters
    ----------
    layer
        Block whose output is read, counted from 0; by default the pair's.
    corpus
        A .jsonl (also as .xz or .gz) or .parquet file with text or messages, a folder of text
        files, or hf:NAME:SPLIT?config=CONFIG&text=FIELD, of which only the name is needed.
    output
        Directory for the shards.
    documents
        How many at most.
    positions
        Places per document.
    minimum_position
        First token that may be read; documents that are shorter are passed over.
    max_tokens
        Where a longer document is cut.
    split
        One eighth of all documents, by the hash of their content, is held out.
    next_tokens
        How many of the target's likeliest next tokens each row keeps, for the teacher "text"; 10
        are enough. All blocks of the target run then.
    shard_rows
        Vectors per file, about; at most as many are read again after a kill.
    workers
        Who does the work.
    devices
        Where the target runs. Several processes stay on the CPU unless --device names another.
    """
    counts = {"documents": documents, "positions": positions, "shard-rows": shard_rows}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"--{name} {value}: expected at least 1.")
    if next_tokens < 0:
        raise InputError(f"--next-tokens {next_tokens}: expected 0 or more.")
    if minimum_position < 0 or max_tokens <= minimum_position:
        raise InputError(
            f"--minimum-position {minimum_position} and --max-tokens {max_tokens}: expected a "
            "minimum from 0 on and below the maximum."
        )
    target, layer = find_target(pair, layer)
    pool = workers.pool
    where, alone = place_models(devices, workers), pool == THIS_PROCESS
    make = partial(load_target, target.absolute(), layer, where)
    with count_progress("activations", documents) as progress:
        made = extract_corpus(
            # Whoever shares the work out reads no activation, but its weights name the target.
            load_target(target, layer, where if alone else where._replace(device=CPU)),
            Corpus(absolute(corpus)),
            output.absolute(),
            split=split,
            num_documents=documents,
            positions_per_document=positions,
            minimum_position=minimum_position,
            max_tokens=max_tokens,
            next_tokens=next_tokens,
            shard_rows=shard_rows,
            workers=None if alone else Workers(pool, make),
            progress=progress,
        )
    notice(summary(made, split, documents))
    if made.num_empty:
        notice(f"{made.num_empty} rows without a text were passed over.")
    if made.num_refused:
        why = f"{made.num_refused} rows that the target cannot read were passed over. The first:"
        notice(f"{why} {made.refusals[0]}")
    if json:
        counts = ("num_rows", "num_documents", "num_empty", "num_refused")
        write_json({"output": str(output), **{name: getattr(made, name) for name in counts}})
    else:
        print(output)


def summary(made: Manifest, split: Split, asked: int) -> str:
    """How much was read, and why it is less than was asked for."""
    said = f"{made.num_rows:,} rows of {made.num_documents:,} documents of the {split} split."
    if made.num_documents == asked:
        return said
    other = "heldout" if split == "train" else "train"
    return (
        f"{said} The corpus has no more of {asked:,} that are long enough: one eighth of all "
        f"documents, by their content, is held out, and --split {other} reads the others."
    )


def find_target(pair: PairOptions, layer: int | None) -> tuple[Path, int]:
    """The model that is read, and the block. Raises `InputError` where they are not said."""
    if pair == PairOptions(target=pair.target):
        if pair.target is None or layer is None:
            raise InputError(
                "Give --target and --layer, or a pair that reads them: --nla, or --av and --ar."
            )
        return locate(pair.target), layer
    source = pair.source()
    return source.target, read_facts(source)[0].layer if layer is None else layer


def absolute(corpus: str) -> str:
    """The corpus under a name that workers in other directories know too."""
    return corpus if corpus.startswith(HUGGING_FACE) else str(Path(corpus).absolute())
