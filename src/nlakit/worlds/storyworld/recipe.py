"""The storyworld's recipe: everything that decides a run from nothing to a published pair."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from nlakit.config import FrozenModel
from nlakit.models.precision import Precision
from nlakit.storyworld.document import KINDS
from nlakit.train.config import (
    AbstentionConfig,
    GroundedRlConfig,
    PairTraining,
    ReportConfig,
    RlConfig,
    SettlingConfig,
    SftConfig,
    TrainingSettings,
)
from nlakit.train.learner import OptimizerConfig


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
    rarity: float = Field(default=0.0, ge=0, le=1)
    """Words are drawn in proportion to their frequency to the power of minus this: at 0 all words
    ahead alike, at 1 a word as often as any other, so that what is said rarely asks for as much of
    the state as all commas together."""
    decided: int = Field(default=0, ge=0)
    """Of the words drawn for a token of a document, how many are one that the text so far has
    decided and not yet said (a total, a rhyme, an answer, a count), where there is one."""


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
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Of some kinds of claims, in place of `threshold`: what an AV learns to say from few sure
    examples it says where it is less sure as well."""
    curve_rows: int = Field(default=1000, ge=8)
    """Of the judge's own explanations, how many are checked to tell what its judgement is worth."""
    judge: SftConfig
    verbalizer: SftConfig
    reconstructor: SftConfig

    @model_validator(mode="after")
    def _bounds_kinds_that_there_are(self) -> GroundingConfig:
        unknown = sorted(set(self.thresholds) - set(KINDS))
        if unknown:
            raise ValueError(
                f"thresholds: {unknown[0]!r} is no kind of claim. The kinds are {', '.join(KINDS)}"
            )
        return self


GROUNDED_PARTS = ("target", "extraction", "verbalizer", "reconstructor", "grounding")
STAGE_PARTS = {
    "verbalizer": ("target", "extraction", "verbalizer"),
    "reconstructor": ("target", "extraction", "reconstructor"),
    "rl": ("target", "extraction", "verbalizer", "reconstructor", "rl"),
    "grounded-rl": (*GROUNDED_PARTS, "grounded_rl"),
    "abstention": (*GROUNDED_PARTS, "grounded_rl", "abstention"),
    "settling": (*GROUNDED_PARTS, "grounded_rl", "abstention"),
    "control-plain": ("target", "extraction", "verbalizer", "reconstructor", "rl"),
    "control-grounded": (*GROUNDED_PARTS, "grounded_rl"),
}
"""Parts of a recipe that decide the result of a stage."""


class StoryworldRecipe(FrozenModel):
    """A target made from scratch in the storyworld, and an NLA of it."""

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
    abstention: AbstentionConfig | None = None
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _both_or_neither(self) -> StoryworldRecipe:
        if (self.grounding is None) != (self.grounded_rl is None):
            raise ValueError("[grounding] and [grounded_rl] go together: give both, or neither")
        if self.abstention is not None and self.grounding is None:
            raise ValueError("[abstention] without [grounding]: give both, or leave it out")
        return self

    # -- what the stages ask (`train.world.PairRecipe`) --------------------------------------------
    @property
    def settings(self) -> TrainingSettings:
        return TrainingSettings(
            seed=self.seed, precision=self.precision, checkpoint_every=self.checkpoint_every
        )

    @property
    def has_grounding(self) -> bool:
        return self.grounding is not None

    @property
    def has_plain_pair(self) -> bool:
        return True

    @property
    def has_rows(self) -> bool:
        return True

    @property
    def has_controls(self) -> bool:
        return self.grounding is not None

    @property
    def settling(self) -> SettlingConfig | None:
        return self.grounded_rl and self.grounded_rl.settling

    def plain(self, num_labels: int) -> PairTraining:
        return PairTraining(self.verbalizer, self.reconstructor, self.rl)

    def grounded(self, num_labels: int) -> PairTraining:
        assert self.grounding is not None and self.grounded_rl is not None, "as `has_grounding`"
        return PairTraining(
            self.grounding.verbalizer, self.grounding.reconstructor, self.grounded_rl
        )

    def decided_by(
        self, stage: str, training: PairTraining, trained: SftConfig | None = None
    ) -> StageConfig:
        if stage == "grounded-verbalizer":
            return self.stage(*GROUNDED_PARTS, verbalizer=training.verbalizer)
        if stage == "grounded-reconstructor":
            return self.stage(*GROUNDED_PARTS, reconstructor=training.reconstructor)
        # What settling is told is a part of `grounded_rl`.
        if trained is None or stage == "settling":
            return self.stage(*STAGE_PARTS[stage])
        return self.stage(*STAGE_PARTS[stage], reconstructor=trained)

    def stage(self, *parts: str, **changed: SftConfig) -> StageConfig:
        """What decides a stage's result: these parts of the recipe and nothing after them.

        Args:
            changed: parts that the stage is trained by in place of the recipe's own.
        """
        decided: dict[str, Any] = {part: getattr(self, part) for part in parts} | changed
        return StageConfig(seed=self.seed, precision=self.precision, **decided)


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
    abstention: AbstentionConfig | None = None
