"""What a pair says of N activations, and what became of each: where every evaluation starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.core.fidelity import FveResult, RowErrors
from nlakit.engines.base import MAX_NEW_TOKENS, Completion, Engine, Sampling
from nlakit.pair.pair import Pair, Reconstruct


@dataclass(frozen=True)
class RowReadings:
    """Answers for N rows, and what became of each."""

    completions: list[Completion]
    h_hat_ND: Float[Tensor, "N D"]
    result: FveResult
    errors: RowErrors

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.completions]


def read_rows(
    pair: Pair,
    engine: Engine,
    vectors_ND: Float[Tensor, "N D"],
    temperature: float,
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> RowReadings:
    """Verbalize and reconstruct each row with `engine`, and hold the two side by side."""
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    completions = [group[0] for group in engine.verbalize(vectors_ND, sampling)]
    h_hat_ND = rebuild(engine.reconstruct, [each.text for each in completions])
    return RowReadings(
        completions,
        h_hat_ND,
        pair.fve_of(vectors_ND, h_hat_ND),
        pair.errors_of(vectors_ND, h_hat_ND),
    )


def rebuild(reconstruct: Reconstruct, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Explanations as float32 vectors on the CPU, without gradients."""
    with torch.no_grad():
        return reconstruct(list(texts)).float().cpu()
