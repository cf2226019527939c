"""The one score of explanations: how near the vectors rebuilt from them come to activations.

All vectors are brought to norm √d_model first, whatever the pair's `mse_scale`: fidelity and FVE
do not depend on a common norm, and figures of different pairs are then of one kind.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.card import NlaCard
from nlakit.core.fidelity import reconstruction_mse
from nlakit.fidelity_scale import UNGRADED, FidelityScale, Grade
from nlakit.reading import Score

INPUT_LIMIT = 1e15
"""Larger components would overflow when squared; only a vector's direction matters."""


def score_rows(
    card: NlaCard, vectors_ND: Float[Tensor, "N D"], rebuilt_ND: Float[Tensor, "N D"]
) -> list[Score]:
    """One score per row; where the card has no baseline, the fidelity is the bare cosine.

    A row that is not finite, or is zero, has scores that are not finite or say nothing.
    """
    vectors_ND, rebuilt_ND = in_range(vectors_ND.cpu()), rebuilt_ND.cpu().float()
    mse_N = reconstruction_mse(vectors_ND, rebuilt_ND, math.sqrt(card.d_model))
    cosine_N = torch.cosine_similarity(vectors_ND, rebuilt_ND, dim=-1)
    return [
        Score(
            fidelity=(fidelity := 1 - mse / card.variance),
            cosine=cosine,
            mse=mse,
            baseline=card.baseline,
            word=grade_of(card, fidelity).word,
        )
        for mse, cosine in zip(mse_N.tolist(), cosine_N.tolist(), strict=True)
    ]


def grade_of(card: NlaCard, fidelity: float) -> Grade:
    """The grade of a fidelity beside the card's floors; a bare cosine has none."""
    return UNGRADED if card.baseline == "none" else FidelityScale(card.floors).grade(fidelity)


def in_range(vectors_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Rows whose squares would overflow, made smaller; all others as they are."""
    largest_N1 = vectors_ND.abs().amax(dim=-1, keepdim=True)
    return torch.where(largest_N1 > INPUT_LIMIT, vectors_ND / largest_N1, vectors_ND)
