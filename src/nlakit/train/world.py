"""What the stages of a recipe ask of it, and of the world whose texts its target reads.

A corpus read by an existing model is one such world (`corpus_world`); a world that makes its own
target and knows what is true of its documents brings another, with a recipe of its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pydantic import JsonValue
from torch import Tensor

from nlakit.card import ReadSpan
from nlakit.claims.system import ClaimSystem, State
from nlakit.config import FrozenModel
from nlakit.contract import Tokens
from nlakit.data.datasets import PairSet, StoredRows
from nlakit.engines.base import PolicyEngine
from nlakit.engines.local import LocalEngine
from nlakit.evals.eval_set import EvalSet
from nlakit.pair.pair import Pair

from .config import (
    AbstentionConfig,
    PairTraining,
    ReportConfig,
    RlConfig,
    SettlingConfig,
    SftConfig,
    TrainingSettings,
)
from .evaluation import HeldOut
from .pair_models import PairModels
from .stage import Stage, Workspace


class PairRecipe(Protocol):
    """What the stages of either kind of recipe ask of it."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> TrainingSettings:
        """What all training runs share."""
        ...

    @property
    def has_grounding(self) -> bool:
        """Whether a second pair is trained, on labels that keep to what activations carry."""
        ...

    @property
    def has_plain_pair(self) -> bool:
        """Whether the pair without grounding is trained to its end."""
        ...

    @property
    def has_rows(self) -> bool:
        """Whether what the pair is compared with is published beside it: its warm start, the plain
        pair and the controls."""
        ...

    @property
    def has_controls(self) -> bool:
        """Whether reconstructors are trained on labels alone, to be compared with the pairs'."""
        ...

    @property
    def report(self) -> ReportConfig:
        """On how many documents the pair is measured."""
        ...

    @property
    def abstention(self) -> AbstentionConfig | None:
        """The training of the verbalizer after RL."""
        ...

    @property
    def settling(self) -> SettlingConfig | None:
        """The training of the reconstructor after RL."""
        ...

    def plain(self, num_labels: int) -> PairTraining:
        """The training of the pair without grounding. Raises `InputError` for too few labels."""
        ...

    def grounded(self, num_labels: int) -> PairTraining:
        """The training of the grounded pair. Raises `InputError` for too few labels."""
        ...

    def decided_by(
        self, stage: str, training: PairTraining, trained: SftConfig | None = None
    ) -> FrozenModel:
        """All that decides the result of a stage, for its `config.toml`.

        Args:
            training: of the pair that the stage belongs to.
            trained: what the stage's trainer is told, where that is not a part of `training`.
        """
        ...


class World(Protocol):
    """What only the world of a recipe can do. Everything is read from the files of earlier stages.

    Attributes:
        claims: reads claims out of explanations.
    """

    @property
    def recipe(self) -> PairRecipe: ...
    @property
    def resolved(self) -> FrozenModel:
        """The recipe as it is written down beside what it made."""
        ...

    @property
    def space(self) -> Workspace: ...
    @property
    def models(self) -> PairModels: ...
    @property
    def claims(self) -> ClaimSystem: ...

    @property
    def span(self) -> ReadSpan | None:
        """Where in their documents activations are read; None: anywhere."""
        ...

    def first_stages(self) -> Sequence[Stage]:
        """The stages before the warm start: activations, labels, and what these need."""
        ...

    def tokens(self) -> Tokens:
        """The marker and its neighbours in the AV's prompt. Raises `ConfigError`."""
        ...

    def pairs(self) -> PairSet:
        """Labelled activations for the warm start."""
        ...

    def rl_rows(self, *, grounded: bool) -> StoredRows:
        """Activations for RL; for a grounded pair new to the judge of its claims."""
        ...

    def abstention_rows(self) -> StoredRows:
        """Activations that the AV writes about, to learn what to leave out."""
        ...

    def states_of(self, rows: pa.Table) -> Sequence[State]:
        """What claims about rows are checked against."""
        ...

    def settling_rows(self) -> StoredRows:
        """Activations on whose explanations the reconstructor settles."""
        ...

    def held_out(self, config: RlConfig, mean_D: Tensor) -> HeldOut:
        """What the figures of RL are taken on."""
        ...

    def policy_engine(self, local: LocalEngine) -> AbstractContextManager[PolicyEngine]:
        """Who writes the rollouts of RL, over the pair of `local`."""
        ...

    @property
    def most_k3(self) -> float | None:
        """How far that engine's policy may be from the trainer's (`rl.check_policy`)."""
        ...

    def grounding_stage(self) -> Stage:
        """Labels without the claims that no activation carries, and the judges that tell."""
        ...

    def grounded_pairs(self) -> PairSet:
        """Activations with such labels."""
        ...

    @property
    def grounded_start(self) -> tuple[Path | None, Path | None]:
        """AV and AR that the grounded pair goes on from; None: that one starts from the target."""
        ...

    @property
    def judge(self) -> Path:
        """The verbalizer that judges claims in RL."""
        ...

    def provenance(self) -> dict[str, JsonValue]:
        """What the pair's card says of how it was made, besides recipe, seed and checkpoint."""
        ...

    @property
    def description(self) -> str:
        """What the pair's card calls it."""
        ...

    @property
    def domain(self) -> str:
        """The texts that it is trained on, as a phrase that completes "trained on …"."""
        ...

    def furnish(self, directory: Path) -> None:
        """Lay into the directory of the published pair what this world has beside the models."""
        ...

    def published_pair(self, directory: Path) -> Pair:
        """The pair to measure, with its warm start and control AR. All processes ask for it."""
        ...

    @property
    def eval_set(self) -> EvalSet:
        """What it is measured on."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an explanation that is measured, at most."""
        ...
