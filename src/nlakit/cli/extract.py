"""`nlakit extract`: reads the activations of a corpus into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import extract_corpus
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.train.run import count_bar


def extract(
    *,
    target: Path,
    layer: int,
    corpus: str,
    output: Path,
    documents: int = 1000,
    positions: int = 5,
    minimum_position: int = 50,
    max_tokens: int = 1024,
    split: Literal["train", "heldout"] = "train",
) -> None:
    """Read a corpus with a target into shards of raw activations; a killed run is continued.

    Parameters
    ----------
    target
        Directory of a model.
    layer
        Block whose output is read, counted from 0.
    corpus
        A .jsonl or .parquet file with text or messages, a folder of text files, or hf:NAME:SPLIT.
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
    """
    for name, value in {"documents": documents, "positions": positions}.items():
        if value < 1:
            raise InputError(f"--{name} {value}: expected at least 1.")
    if minimum_position < 0 or max_tokens <= minimum_position:
        raise InputError(
            f"--minimum-position {minimum_position} and --max-tokens {max_tokens}: expected a "
            "minimum from 0 on and below the maximum."
        )
    with count_bar("activations", documents) as progress:
        extract_corpus(
            Target.load(target, layer),
            Corpus(corpus),
            output,
            split=split,
            num_documents=documents,
            positions_per_document=positions,
            minimum_position=minimum_position,
            max_tokens=max_tokens,
            progress=progress,
        )
    print(output)
