"""`nlakit describe`: a file of activations in, explanations in Parquet out."""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nlakit.card import CARD_NAME, read_card
from nlakit.data.bulk import BulkPlan, Described, VectorSource, explain_vectors
from nlakit.data.shards import file_sha256
from nlakit.engines.base import MAX_NEW_TOKENS, Sampling, sampling_for
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError
from nlakit.pair.pair import NLA, load
from nlakit.registry import resolve

from .progress import counting_progress
from .workers import HERE, WorkerOptions

WEIGHTS = "*.safetensors"


def describe(
    vectors: Path,
    /,
    *,
    output: Path,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    nla: str | None = None,
    shard_rows: int = 1000,
    workers: WorkerOptions = HERE,
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
        0 writes the likeliest words; by default 0 for one sample and 1 for several.
    max_new_tokens
        Longest answer, in tokens.
    seed
        Decides, with a vector's number, what is drawn above temperature 0.
    nla
        Directory of an NLA; by default the bundled one.
    shard_rows
        Vectors in a file; so many at most are done again after a kill.
    workers
        Who does the work.
    """
    if shard_rows < 1:
        raise InputError(f"--shard-rows must be 1 or more, found {shard_rows}.")
    sampling = sampling_for(samples, temperature, max_new_tokens, seed)
    pool = workers.pool
    # Workers on other machines start in other directories.
    source, directory = VectorSource(vectors.absolute()), resolve(nla).absolute()
    card = read_card(directory)
    if source.d_model != card.d_model:
        raise InputError(
            f"{vectors} holds vectors of {source.d_model} numbers; {card.name} reads "
            f"{card.d_model}. They must be activations of its target after block {card.layer}."
        )
    plan = BulkPlan(
        nla=card.name,
        nla_sha256=weights_sha256(directory),
        vectors_sha256=source.sha256(),
        num_rows=source.num_rows,
        d_model=source.d_model,
        shard_rows=shard_rows,
        samples=sampling.samples,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
    )
    make = partial(Reader.load, directory, sampling, workers.device)
    with counting_progress("vectors") as progress:
        manifest = explain_vectors(make, source, output.absolute(), plan, pool, progress)
    sys.stdout.write(f"{plan.num_rows} vectors in {len(manifest.shards)} files: {output}\n")


class Reader(NamedTuple):
    """An NLA with its sampling, as `data.bulk` asks for it."""

    nla: NLA
    sampling: Sampling

    @classmethod
    def load(cls, directory: Path, sampling: Sampling, device: str = "cpu") -> Reader:
        """Read an NLA, and put what writes and scores on a device. Raises as `nlakit.load`."""
        nla = load(directory, device="cpu", dtype="float32")
        engine = nla.engine
        assert isinstance(engine, LocalEngine)
        engine.verbalizer.model.to(device)
        engine.reconstructor.backbone.to(device)
        engine.reconstructor.head.to(device)
        engine.refresh()
        return cls(nla, sampling)

    @torch.inference_mode()
    def describe_rows(self, vectors_ND: Tensor, first: int) -> list[Described]:
        """Every answer with its scores."""
        answers, scores = self.nla.answers(vectors_ND, self.sampling, first=first)
        size = self.sampling.samples
        return [
            Described(
                row=first + index // size,
                sample=index % size,
                explanation=answer.text,
                closed=answer.closed,
                fidelity=score.fidelity,
                cosine=score.cosine,
                mse=score.mse,
            )
            for index, (answer, score) in enumerate(zip(answers, scores, strict=True))
        ]


def weights_sha256(directory: Path) -> str:
    """Of what writes and scores: the weights of `av/` and `ar/`, and the card."""
    paths = [path for part in ("av", "ar") for path in sorted((directory / part).glob(WEIGHTS))]
    digests = [file_sha256(path) for path in [*paths, directory / CARD_NAME]]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
