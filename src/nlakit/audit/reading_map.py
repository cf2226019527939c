"""The readings of two NLAs at the same tokens on one map, by the embeddings of their words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.evals.bootstrap import ratio_interval
from nlakit.evals.compare import check_same_target
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.rows import ReadSample, read_sample, read_vectors
from nlakit.pair.pair import Pair
from nlakit.sae.dual_map import DualMap, SameToken, joint_map

from .embed import Embedder

AROUND = 80
"""Characters of the text before a token that the map keeps."""


def reading_map(
    pair: Pair,
    other: Pair,
    eval_set: EvalSet,
    embedder: Embedder,
    documents: int,
    seed: int,
    temperature: float = 0.0,
) -> DualMap:
    """Read held-out documents of `seed` with both, one token in each, and map what they say.

    Raises:
        InputError: fewer than 2 documents, or pairs of two targets.
        MissingExtraError: umap-learn is not installed.
    """
    check_same_target(pair, other)
    ours = read_sample(pair, eval_set, documents, seed, temperature)
    theirs = read_vectors(other, eval_set, ours.sample, seed, temperature)
    return map_readings(ours, theirs, embedder, seed)


def map_readings(ours: ReadSample, theirs: ReadSample, embedder: Embedder, seed: int) -> DualMap:
    """The map of two readings of the same rows. Raises as `reading_map`."""
    said = (ours.reading.texts, theirs.reading.texts)
    first_NE, second_NE = (_embedded(texts, embedder) for texts in said)
    numbers = range(len(ours.doc_ids))
    found = joint_map(
        (first_NE, second_NE),
        (numbers, numbers),
        _names(ours.pair, theirs.pair),
        seed,
        (ours.doc_ids, ours.doc_ids),
    )
    same_N = (first_NE * second_NE).sum(-1)
    other_N = (first_NE * second_NE[ours.other_documents()]).sum(-1)
    points = [
        point.model_copy(
            update={
                "text": said[point.dictionary][point.latent],
                "around": ours.prefixes[point.latent][-AROUND:],
                "same": same_N[point.latent].item(),
            }
        )
        for point in found.points
    ]
    identical = sum(a == b for a, b in zip(*said, strict=True)) / len(same_N)
    compared = SameToken(
        embedder=embedder.name,
        by_meaning=embedder.by_meaning,
        cosine=same_N.mean().item(),
        interval=ratio_interval(same_N, torch.ones_like(same_N), ours.doc_ids),
        other_document=other_N.mean().item(),
        other_document_interval=ratio_interval(other_N, torch.ones_like(other_N), ours.doc_ids),
        identical=identical,
    )
    update = {"of": "readings", "points": tuple(points), "same_token": compared}
    return found.model_copy(update=update)


def _embedded(texts: Sequence[str], embedder: Embedder) -> Float[Tensor, "N E"]:
    """Unit rows; each wording is embedded once."""
    distinct = list(dict.fromkeys(texts))
    place = {text: row for row, text in enumerate(distinct)}
    rows_NE = embedder.embed(distinct)[[place[text] for text in texts]]
    return torch.from_numpy(np.ascontiguousarray(rows_NE))


def _names(pair: Pair, other: Pair) -> tuple[str, str]:
    return pair.name, f"{other.name} (other)" if pair.name == other.name else other.name
