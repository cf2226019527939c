"""What the trainers are told: steps, batches and rates, and what all runs of a recipe share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import pydantic
from pydantic import Field

from nlakit.config import FrozenModel
from nlakit.evals.probes import PROBE_ROWS
from nlakit.models.precision import Precision

from .learner import OptimizerConfig


class TrainingSettings(FrozenModel):
    """What every training run of a recipe shares."""

    seed: int = Field(default=0, ge=0)
    precision: Precision = "auto"
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between the checkpoints that a killed run goes on from."""


MIN_LABELS = 16
"""Fewer train nothing."""


def held_out_of(num_rows: int) -> int:
    """Of so many labels, how many are kept back for the figures logged while training."""
    return min(256, max(8, num_rows // 10))


class SftConfig(FrozenModel):
    """Supervised training of one of the pair on the teacher's labels."""

    steps: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: OptimizerConfig
    claim_weight: float = Field(default=1.0, ge=1)
    """AV only: loss weight of the tokens that make a claim; the others weigh 1."""
    held_out: int = Field(default=256, ge=8)
    """Rows of the last documents kept back for the figures logged while training."""
    evaluate_every: int = Field(default=200, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows of a batch in memory at once; None: as many as there is memory for."""


class RlConfig(FrozenModel):
    """Joint RL: on-policy GRPO for the AV, regression on the same explanations for the AR."""

    steps: int = Field(ge=1)
    vectors: int = Field(default=32, ge=1)
    group: int = Field(default=8, ge=2)
    max_new_tokens: int = Field(default=72, ge=8)
    temperature: float = Field(default=1.0, gt=0)
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows in memory at once; None: as many as there is memory for."""
    reconstructor_updates: int = Field(default=1, ge=1)
    """Regression steps of the AR for each rollout, each on its share of every vector's samples."""
    kl_coefficient: float = Field(default=0.01, ge=0)
    unclosed_reward: float = -2.0
    """Reward of an explanation without its closing tag; the AR does not learn from it."""
    length_allowance: int = Field(default=60, ge=1)
    length_cost: float = Field(default=0.005, ge=0)
    """Reward lost per token beyond the allowance."""
    verbalizer: OptimizerConfig
    reconstructor: OptimizerConfig
    evaluate_every: int = Field(default=20, ge=1)
    evaluation_documents: int = Field(default=200, ge=8)
    precision_slack: float = Field(default=0.02, ge=0)
    """The best checkpoint is the one of highest FVE whose claim precision is no more than this
    below the warm start's."""


class AbstentionConfig(FrozenModel):
    """After RL the AV learns to leave out what it is unsure of (`abstention`)."""

    documents: int = Field(ge=1)
    """Documents of their own, on which no other stage trains."""
    least_confidence: float = Field(default=0.5, gt=0, lt=1)
    """A claim stays in what the AV writes where it is at least this likely to be true."""
    batch_size: int = Field(default=32, ge=1)
    label_tokens: int = Field(default=25, ge=1)
    """Of what is left of an explanation, tags included; for the plan only."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows of a batch in memory at once; None: as many as there is memory for."""
    optimizer: OptimizerConfig
    claim_weight: float = Field(default=1.0, ge=1)
    evaluate_every: int = Field(default=200, ge=1)

    def training(self, num_rows: int) -> SftConfig:
        """One pass over what is left."""
        held_out = held_out_of(num_rows)
        return SftConfig(
            steps=max(1, (num_rows - held_out) // self.batch_size),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            claim_weight=self.claim_weight,
            held_out=held_out,
            evaluate_every=self.evaluate_every,
            micro_batch=self.micro_batch,
        )


class SettlingConfig(SftConfig):
    """After RL the AR continues training alone, on what the published AV writes."""

    vectors: int = Field(ge=8)
    """One explanation of each."""
    greedy_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the explanations that are greedy, as most people read them; others are sampled as in
    RL."""


class GroundedRlConfig(RlConfig):
    """Joint RL of the grounded pair: the judge stays on, the AR reads re-worded explanations."""

    judge_weight: float = Field(default=0.6, ge=0)
    """Of what an explanation's claims are worth to the judge, in the reward."""
    judge_neutral: float = Field(default=0.8, gt=0, le=1)
    """The probability at which a claim is worth as much as silence."""
    reword_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the vectors whose explanations the AR is given paraphrased."""
    independent_share: float = Field(default=0, ge=0, le=1)
    """Share of the reconstruction that is rewarded by the AR that saw labels only, and is frozen
    as RL found it."""
    writing_cost: float = Field(default=0, ge=0)
    """Reward lost per nat a token that the target finds an explanation less likely than
    `writing_enough`."""
    writing_enough: float = Field(default=-3.0, lt=0)
    settling: SettlingConfig | None = None


class LoraConfig(FrozenModel):
    """Adapters on a frozen base; without this section both models are trained whole."""

    rank: int = Field(default=64, ge=1)
    alpha: int = Field(default=128, ge=1)
    reconstructor_rank: int | None = Field(default=None, ge=1)
    """Of the AR's adapter, whose alpha is in proportion; None: `rank`."""
    base_bits: Literal[4, 8] | None = None
    """The matrices of the base's blocks, rounded (bitsandbytes); the target is read so too."""


class DevicesConfig(FrozenModel):
    """Where it runs."""

    kind: str = "h100"
    count: int = Field(default=1, ge=1)
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    gradient_checkpointing: bool = False

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.count > 1) != (self.parallel != "none"):
            raise ValueError(f"parallel = {self.parallel!r} with count = {self.count}")
        return self


class ReportConfig(FrozenModel):
    """On what the finished pair is measured."""

    documents: int = Field(default=500, ge=8)
    """Held-out ones; fewer where a corpus has fewer."""
    seed: int = Field(default=90_001, ge=0)
    probe_rows: int = Field(default=PROBE_ROWS, ge=50)
    """Activations of the training split that its probes are trained on."""


@dataclass(frozen=True)
class PairTraining:
    """How one pair is trained."""

    verbalizer: SftConfig
    reconstructor: SftConfig
    rl: RlConfig
