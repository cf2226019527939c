"""A pair as the bulk engine asks for it: vectors in, explanations with their scores out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nlakit.card import CARD_NAME
from nlakit.data.bulk import Described
from nlakit.data.shards import file_sha256
from nlakit.engines.base import Sampling
from nlakit.models.lora import open_checkpoint
from nlakit.models.placement import Placement
from nlakit.reading import ReadClaim

from .load import load_source
from .pair import Pair
from .source import PairSource

WEIGHTS = "*.safetensors"


class BulkReader(NamedTuple):
    """A pair with its sampling, as `data.bulk` asks for it.

    Attributes:
        confidence: give each explanation the mean confidence of its claims, where the pair has a
            calibrator.
    """

    pair: Pair
    sampling: Sampling
    confidence: bool = False

    @classmethod
    def load(cls, source: PairSource, sampling: Sampling, where: Placement) -> BulkReader:
        """Read a pair in a worker. Raises as `load_source`."""
        return cls(load_source(source, where), sampling)

    @torch.inference_mode()
    def describe_rows(self, vectors_ND: Tensor, first: int) -> list[Described]:
        """Every answer with its scores."""
        answers, scores = self.pair.answers(vectors_ND, self.sampling, first=first)
        claims: Sequence[tuple[ReadClaim, ...]] = [()] * len(answers)
        if self.confidence:
            repeated_MD = vectors_ND.repeat_interleave(self.sampling.samples, dim=0)
            temperature = self.sampling.temperature
            claims = self.pair.claims(answers, scores, temperature, repeated_MD)
        size = self.sampling.samples
        return [
            Described(
                row=first + index // size,
                sample=index % size,
                explanation=answer.text,
                closed=answer.closed,
                fidelity=None if score.baseline == "none" else score.fidelity,
                cosine=score.cosine,
                mse=score.mse,
                confidence=_mean_confidence(made),
            )
            for index, (answer, score, made) in enumerate(zip(answers, scores, claims, strict=True))
        ]


def _mean_confidence(claims: Sequence[ReadClaim]) -> float | None:
    known = [each.confidence for each in claims if each.confidence is not None]
    return sum(known) / len(known) if known else None


def dtype_name(where: Placement) -> str:
    """What a plan says of the precision of weights."""
    return "stored" if where.dtype is None else str(where.dtype).removeprefix("torch.")


def weights_sha256(source: PairSource) -> str:
    """Of what writes and scores: the weights of AV and AR, and what scores are held against."""
    checkpoints = [open_checkpoint(part, source.target) for part in (source.av, source.ar)]
    homes = [home for each in checkpoints for home in (each.weights, each.adapter) if home]
    paths = [path for home in homes for path in sorted(home.glob(WEIGHTS))]
    beside = source.mean if source.paths is None else source.paths.shared / CARD_NAME
    digests = [file_sha256(path) for path in [*paths, *filter(None, [beside])]]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
