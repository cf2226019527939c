"""Held-out figures taken while training: the report's own, on fewer documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from nlakit.core.fidelity import fve
from nlakit.core.scale import resolve_scale
from nlakit.data.extraction import sample_storyworld
from nlakit.engines.base import Engine, Sampling
from nlakit.evals.claims import score_claims
from nlakit.evals.probes import fit_probes
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.storyworld.document import State
from nlakit.worlds.storyworld.documents import states_of

EVALUATION_TOKENS = 120
PROBE_DOCUMENTS, PROBE_POSITIONS, PROBE_TRAIN_SHARE = 1600, 4, 0.75


def probe_accuracies(target: Target, seed: int) -> dict[str, float]:
    """What an MLP reads of each kind of fact at the target's site, as `probe.KIND`.

    A target learns its kinds one at a time, after long plateaus that its loss does not show.
    """
    vectors, rows = sample_storyworld(target, seed, "train", PROBE_DOCUMENTS, PROBE_POSITIONS)
    states = states_of(rows)
    cut = int(len(states) * PROBE_TRAIN_SHARE)
    found = fit_probes(vectors[:cut], states[:cut], vectors[cut:], states[cut:])
    return {f"probe.{kind}": round(result.score.mlp, 3) for kind, result in found.items()}


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
    """Activations of held-out documents, with the state of the world at each where it is known."""

    vectors_ND: Tensor
    states: Sequence[State] | None
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
        truth = None if self.states is None else score_claims(texts, self.states)
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
