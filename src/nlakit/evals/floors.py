"""What an FVE has to beat: reconstructions that know nothing of the vector they are held against.

Each floor is an FVE over the rows given, so over as many documents as those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.fidelity import fve
from nlakit.errors import InputError

GENERIC_EXPLANATION = (
    "A short text in an ordinary tone. Somebody does something somewhere. "
    "The text goes on from here."
)

Reconstruct = Callable[[list[str]], Tensor]


class Floors(FrozenModel):
    """FVE of reconstructions without the vector."""

    mean: float
    """The training mean, brought to the vectors' norm as every reconstruction is. Left as it is,
    it would score 0 by definition."""
    shuffled: float
    """Each row rebuilt from the explanation of another document's row."""
    empty: float
    """Every row rebuilt from the empty explanation."""
    generic: float
    """Every row rebuilt from one generic explanation."""
    zero_vector: float
    """Every row rebuilt from what the verbalizer says of a zero vector."""


def measure_floors(
    reconstruct: Reconstruct,
    h_ND: Float[Tensor, "N D"],
    h_hat_ND: Float[Tensor, "N D"],
    documents: Sequence[str],
    mean_D: Float[Tensor, " D"],
    scale: float | None,
    zero_vector_explanation: str,
    seed: int = 0,
) -> Floors:
    """All floors of one evaluation.

    Args:
        reconstruct: explanations to vectors [n, D].
        h_hat_ND: the reconstructions from the rows' own explanations, which are shuffled here.
        documents: document of each row.
    """

    def constant(rebuilt_D: Tensor) -> float:
        return fve(h_ND, rebuilt_D.expand_as(h_ND), mean_D, scale).fve

    texts = ["", GENERIC_EXPLANATION, zero_vector_explanation]
    empty_D, generic_D, zero_D = (row.to(h_ND) for row in reconstruct(texts))
    other = derangement(documents, seed)
    return Floors(
        mean=constant(mean_D),
        shuffled=fve(h_ND, h_hat_ND[other], mean_D, scale).fve,
        empty=constant(empty_D),
        generic=constant(generic_D),
        zero_vector=constant(zero_D),
    )


def derangement(documents: Sequence[str], seed: int = 0) -> list[int]:
    """For each row another row, none used twice, that belongs to another document.

    Raises:
        InputError: one document has more than half of all rows.
    """
    names, cluster_N = np.unique(np.asarray(documents), return_inverse=True)
    largest = int(np.bincount(cluster_N).max())
    if 2 * largest > len(cluster_N):
        raise InputError(
            f"Shuffling across documents: one document has {largest} of {len(cluster_N)} rows. "
            "Give more documents."
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(names))[cluster_N] * len(cluster_N)
    order = np.argsort(shuffled + rng.permutation(len(cluster_N)))
    # Rows of a document lie together, so a step as long as the largest leaves every document.
    other = np.empty_like(order)
    other[order] = np.roll(order, largest)
    return other.tolist()
