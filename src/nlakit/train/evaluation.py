"""Held-out figures taken during training: those of the report, on fewer documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.core.fidelity import fve
from nlakit.core.scale import resolve_scale
from nlakit.engines.base import Engine, Sampling
from nlakit.evals.claims import score_claims
from nlakit.models.reconstructor import Reconstructor

EVALUATION_TOKENS = 120


class ClaimShares(NamedTuple):
    """Precision and recall of the claims of some explanations."""

    precision: float
    recall: float


CheckClaims = Callable[[Sequence[str]], ClaimShares]


def checking(states: Sequence[State], system: ClaimSystem) -> CheckClaims:
    """A check of one explanation for each state."""

    def check(explanations: Sequence[str]) -> ClaimShares:
        found = score_claims(explanations, states, system)
        return ClaimShares(found.precision, found.recall)

    return check


@dataclass(frozen=True)
class Scores:
    """Greedy readings of held-out activations: reconstruction, truth (None where nobody knows it)
    and form."""

    fve: float
    fve_frozen_ar: float
    precision: float | None
    recall: float | None
    tokens: float
    extraction_rate: float

    def record(self) -> dict[str, float]:
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {f"held_out_{name}": value for name, value in known.items()}


@dataclass(frozen=True)
class HeldOut:
    """Activations of held-out documents, and whoever can check what is claimed of them.

    Attributes:
        check: of one explanation a row, in order; None where no claim can be checked.
    """

    vectors_ND: Tensor
    check: CheckClaims | None
    mean_D: Tensor
    max_new_tokens: int = EVALUATION_TOKENS

    def scores(self, engine: Engine, frozen: Reconstructor) -> Scores:
        completions = [
            group[0]
            for group in engine.verbalize(
                self.vectors_ND, Sampling(max_new_tokens=self.max_new_tokens)
            )
        ]
        texts = [each.text for each in completions]
        truth = None if self.check is None else self.check(texts)
        return Scores(
            fve=self._fve(engine.reconstruct(texts)),
            fve_frozen_ar=self._fve(frozen.reconstruct(texts)),
            precision=None if truth is None else truth.precision,
            recall=None if truth is None else truth.recall,
            tokens=sum(len(each.ids) for each in completions) / len(completions),
            extraction_rate=sum(each.closed for each in completions) / len(completions),
        )

    def _fve(self, rebuilt_ND: Tensor) -> float:
        scale = resolve_scale("sqrt_d_model", self.vectors_ND.shape[1])
        return float(fve(self.vectors_ND, rebuilt_ND.cpu(), self.mean_D, scale).fve)
