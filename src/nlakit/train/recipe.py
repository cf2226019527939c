"""A recipe: everything that decides a run from nothing to a published pair, as one TOML file."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field, model_validator

from nlakit.config import FrozenModel

from .learner import OptimizerConfig, Precision


class FutureWordsConfig(FrozenModel):
    """A second loss while the target is trained: a linear head at the site guesses words to come.

    A transformer that only predicts the next token looks most facts up at the moment it needs them,
    so that a probe finds little at the tokens between. Having to say at each token which words are
    still to come makes the state stand in the activation. The head is thrown away.
    """

    weight: float = Field(default=0.5, ge=0)
    layer: int = Field(ge=0)
    horizon: int = Field(default=32, ge=2)
    """How far ahead, in tokens, the guessed words lie at most; they are never the next one."""
    samples: int = Field(default=4, ge=1)
    """Words drawn for each token in each step."""


class TargetConfig(FrozenModel):
    """The storyworld target: a Llama-architecture model trained from scratch."""

    vocab_size: int = Field(default=2048, ge=512)
    hidden_size: int = Field(default=192, ge=16)
    num_layers: int = Field(default=6, ge=2)
    num_heads: int = Field(default=6, ge=1)
    intermediate_size: int = Field(default=512, ge=16)
    context: int = Field(default=256, ge=64)
    """Longest input in tokens, for the target and for both prompts."""
    tokenizer_documents: int = Field(default=6000, ge=100)
    steps: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    optimizer: OptimizerConfig
    future_words: FutureWordsConfig | None = None
    explain_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of rows that ask for the explanation of a text (see `target.training_text`)."""
    continue_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of rows that go on from an explanation."""
    probe_every: int = Field(default=500, ge=1)
    """Steps between probes of every kind of fact: the loss alone does not show what can be read."""


class ExtractionConfig(FrozenModel):
    """Activations of training documents, for the warm start and for RL."""

    layer: int = Field(ge=0)
    """Output of decoder block `layer`, counted from 0."""
    documents: int = Field(ge=1)
    positions_per_document: int = Field(default=5, ge=1)
    shard_rows: int = Field(default=20_000, ge=1)


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
    """Rows of a batch in memory at once; None: all."""


class RlConfig(FrozenModel):
    """Joint RL: on-policy GRPO for the AV, regression on the same explanations for the AR."""

    steps: int = Field(ge=1)
    vectors: int = Field(default=32, ge=1)
    group: int = Field(default=8, ge=2)
    max_new_tokens: int = Field(default=72, ge=8)
    temperature: float = Field(default=1.0, gt=0)
    micro_batch: int = Field(default=64, ge=1)
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


class GroundingConfig(FrozenModel):
    """A second pair, trained on labels without the claims that no activation carries.

    The labels are of fresh documents, so that their judge has seen none of them.
    """

    documents: int = Field(ge=8)
    positions_per_document: int = Field(default=4, ge=1)
    about: tuple[str, ...] = ("rhyme",)
    """Kinds of fact that are rare: `extra_documents` are read only where one of them holds."""
    extra_documents: int = Field(default=0, ge=0)
    """As many go to the judge and RL as to the grounded labels, other ones."""
    threshold: float = Field(default=0.65, gt=0, le=1)
    """A claim stays in a label when the judge gives it at least this probability."""
    curve_rows: int = Field(default=1000, ge=8)
    """Of the judge's own explanations, how many are checked to tell what its judgement is worth."""
    judge: SftConfig
    verbalizer: SftConfig
    reconstructor: SftConfig


class SettlingConfig(SftConfig):
    """After RL the AR learns on alone, from what the AV that it is published with writes."""

    vectors: int = Field(ge=8)
    """One sampled explanation of each."""


class GroundedRlConfig(RlConfig):
    """Joint RL of the grounded pair: the judge stays on, the AR reads re-worded explanations."""

    judge_weight: float = Field(default=0.6, ge=0)
    """Of what an explanation's claims are worth to the judge, in the reward."""
    judge_neutral: float = Field(default=0.8, gt=0, le=1)
    """The probability at which a claim is worth as much as silence."""
    reword_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the vectors whose explanations the AR is given in other words."""
    independent_share: float = Field(default=0, ge=0, le=1)
    """Share of the reconstruction that is rewarded by the AR that saw labels only, and is frozen
    as RL found it."""
    writing_cost: float = Field(default=0, ge=0)
    """Reward lost per nat a token that the target finds an explanation less likely than
    `writing_enough`."""
    writing_enough: float = Field(default=-3.0, lt=0)
    settling: SettlingConfig | None = None


class ReportConfig(FrozenModel):
    documents: int = Field(default=500, ge=8)
    seed: int = Field(default=90_001, ge=0)


class PairRecipe(Protocol):
    """What training a pair asks of a recipe of either kind."""

    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def verbalizer(self) -> SftConfig: ...
    @property
    def reconstructor(self) -> SftConfig: ...
    @property
    def rl(self) -> RlConfig: ...
    def stage(self, *parts: str) -> FrozenModel:
        """What decides a stage's result, so that a run of other settings is not continued."""
        ...


class Recipe(FrozenModel):
    name: str
    seed: int = Field(default=0, ge=0)
    precision: Precision = "auto"
    checkpoint_every: int = Field(default=200, ge=1)
    target: TargetConfig
    extraction: ExtractionConfig
    verbalizer: SftConfig
    reconstructor: SftConfig
    rl: RlConfig
    grounding: GroundingConfig | None = None
    grounded_rl: GroundedRlConfig | None = None
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _both_or_neither(self) -> Recipe:
        if (self.grounding is None) != (self.grounded_rl is None):
            raise ValueError("[grounding] and [grounded_rl] go together: give both, or neither")
        return self

    def stage(self, *parts: str) -> StageConfig:
        """What decides a stage's result: these parts of the recipe and nothing after them."""
        return StageConfig(
            seed=self.seed,
            precision=self.precision,
            **{part: getattr(self, part) for part in parts},
        )


class StageConfig(FrozenModel):
    """The recipe's parts up to one stage, so that a change further down leaves it done."""

    seed: int
    precision: Precision
    target: TargetConfig
    extraction: ExtractionConfig | None = None
    verbalizer: SftConfig | None = None
    reconstructor: SftConfig | None = None
    rl: RlConfig | None = None
    grounding: GroundingConfig | None = None
    grounded_rl: GroundedRlConfig | None = None
