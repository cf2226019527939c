"""A model recipe: an NLA of an existing model, from its weights, a corpus and a teacher.

A world that makes its own target has a recipe of its own; `is_of_a_model` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from nlakit.claims.spans import SPANS
from nlakit.claims.system import ClaimSystem
from nlakit.claims.text.checking import TEXT
from nlakit.config import FrozenModel, load_toml
from nlakit.contract import AUTO
from nlakit.errors import ConfigError, InputError
from nlakit.models.precision import Precision
from nlakit.teachers.named import names_of
from nlakit.teachers.prompt import BRIEF, LABELS, Task
from nlakit.teachers.text import check_shares

from .config import (
    MIN_LABELS,
    AbstentionConfig,
    DevicesConfig,
    GroundedRlConfig,
    LoraConfig,
    PairTraining,
    ReportConfig,
    RlConfig,
    SettlingConfig,
    SftConfig,
    TrainingSettings,
    held_out_of,
)
from .learner import OptimizerConfig

AnyRl = pydantic.SerializeAsAny[RlConfig] | GroundedRlConfig
"""Written with the fields of its own class, and read back as that class."""


class ModelShape(FrozenModel):
    """Sizes of a decoder with gated MLPs, as its `config.json` has them."""

    d_model: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    num_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    tied_embeddings: bool = False

    @property
    def block_parameters(self) -> int:
        """Weights of one block's matrices; norms and biases are left out."""
        attention = 2 * self.d_model * self.head_dim * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.d_model * self.intermediate_size

    @property
    def head_parameters(self) -> int:
        """Weights of the language head."""
        return self.d_model * self.vocab_size

    @property
    def parameters(self) -> int:
        """All matrices: blocks, embedding and, where it is not the same, head."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return self.num_layers * self.block_parameters + embeddings


class ModelTarget(FrozenModel):
    """The model under study."""

    checkpoint: str = Field(min_length=1)
    """A directory, a name on the hub, or a GGUF file."""
    name: str | None = None
    """What contracts and cards call it, such as its name on the hub; None: `checkpoint`."""
    layer: int = Field(ge=0)
    """Output of decoder block `layer`, counted from 0."""
    injection_scale: float | None = Field(default=None, gt=0)
    """None: a round number near the 75th percentile of the norms, measured."""
    marker: str = AUTO
    """The slot in the AV's prompt: a rare character that is one token of the tokenizer; "auto"
    finds one."""
    shape: ModelShape
    """For `nlakit plan`, which opens no checkpoint."""

    @property
    def called(self) -> str:
        """Its name for others."""
        return self.name or self.checkpoint

    @pydantic.model_validator(mode="after")
    def _has_the_layer(self) -> Self:
        if self.layer >= self.shape.num_layers:
            raise ValueError(f"layer {self.layer} of a model of {self.shape.num_layers} blocks")
        return self


class CorpusConfig(FrozenModel):
    """What is read to take activations from."""

    source: str = Field(min_length=1)
    """As `nlakit extract --corpus` takes it."""
    documents: int = Field(ge=1)
    """For the warm start; `rl_documents` are others."""
    rl_documents: int = Field(ge=0)
    positions_per_document: int = Field(default=5, ge=1)
    minimum_position: int = Field(default=50, ge=0)
    max_tokens: int = Field(default=1024, ge=32)
    mean_tokens: int = Field(default=600, ge=1)
    """Of a document cut at `max_tokens`; for the plan only."""
    held_out_documents: int = Field(default=500, ge=4)
    """Of the held-out split, one position in each: for the figures of RL."""
    shard_rows: int = Field(default=20_000, ge=1)


class TeacherConfig(FrozenModel):
    """Who writes the labels, and what it charges."""

    model: str
    """As `nlakit label --teacher` takes it; "fake" asks nobody."""
    brief: bool = False
    """Chat models are asked for one sentence: for small ones."""
    shares: dict[str, float] = {}
    """Of what "text" writes: of some kinds of claims, the share of labels that state them."""
    price: tuple[float, float] | None = None
    """Dollars per million tokens read and written; the plan's label cost comes from it."""
    batch: bool = False
    """Half the price, answers within a day."""
    budget: float | None = Field(default=None, gt=0)
    """Dollars that all of its answers in the cache may cost together."""
    base_url: str | None = None
    """Address of another server than the vendor's, such as http://localhost:8000/v1."""
    cache: Path | None = None
    """File that keeps every answer, for this run and others; None: one in the stage's directory."""
    concurrency: int = Field(default=8, ge=1)
    """Questions in flight at once."""

    @pydantic.model_validator(mode="after")
    def _knows_its_kinds(self) -> Self:
        if self.shares and not self.is_by_rule:
            raise ValueError(
                f"shares with the teacher {self.model!r}: only {TEXT.name!r} has kinds"
            )
        check_shares(self.shares)
        return self

    @property
    def is_by_rule(self) -> bool:
        """Whether "text" writes the labels, by itself or with others: their claims are checked."""
        return TEXT.name in names_of(self.model)

    @property
    def task(self) -> Task:
        """What chat models are asked for."""
        return BRIEF if self.brief else LABELS

    @property
    def called(self) -> str:
        """Its name for others: of directories the last part."""
        return "+".join(
            f"hf:{Path(each.removeprefix('hf:')).name}" if each.startswith("hf:") else each
            for each in names_of(self.model)
        )


class WarmStartConfig(FrozenModel):
    """Both of the pair on the labels."""

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=256, ge=1)
    label_tokens: int = Field(default=130, ge=1)
    """Of an explanation of 80 to 100 words, tags included; for the plan only."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows of a batch in memory at once; without it as many as there is memory for."""
    optimizer: OptimizerConfig
    claim_weight: float = Field(default=1.0, ge=1)
    """AV only: loss weight of the tokens that make a claim; the others weigh 1."""
    reconstructor_epochs: int | None = Field(default=None, ge=1)
    """None: as many as the AV's."""
    reconstructor_optimizer: OptimizerConfig | None = None
    """None: the AV's."""
    evaluate_every: int = Field(default=200, ge=1)


class GroundingConfig(FrozenModel):
    """Labels without the claims that no activation carries (`label_grounding`), for a second pair.

    A claim is what the teacher "text" states, or a span of another teacher's prose. It stays where
    both hold.
    """

    threshold: float = Field(ge=0, le=1)
    """The least probability of a claim's words, given the vector. Nobody knows how else it might
    be said, so in free prose that of a true claim is far below 1."""
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Of some kinds of claims, in place of `threshold`: where several claims are true at once, as
    of next tokens, the judge shares its probability out among them, and each has little."""
    least_gain: float = Field(default=0.0, ge=0, lt=1)
    """The least p / (p + p'), p' being the probability given other documents' vectors: 0.5 where
    the vector adds nothing. 0 does not ask."""
    documents: int = Field(default=0, ge=0)
    """Documents of their own, whose labels the plain pair's AV judges and the grounded pair goes on
    with. 0: the warm start's, judged by two AVs that are each trained on half of them."""
    epochs: int = Field(default=2, ge=1)
    """Of each judge of a half: 2 are as many steps as one over all labels."""
    warm_start: WarmStartConfig | None = None
    """Of the grounded pair; None: as the plain pair's."""


class ModelSettlingConfig(SettlingConfig):
    """Settling on explanations of activations that no other stage has learned from."""

    documents: int = Field(default=0, ge=0)
    """Documents of their own. 0: those of RL, which AV and AR may have seen many times."""


class ComparisonConfig(FrozenModel):
    """What the pair is compared with. With this section it is trained and published beside it:
    the warm start, and what is said here."""

    plain_pair: bool = True
    """With [grounding]: the pair on the teacher's labels as they are, and RL without a judge."""
    controls: bool = True
    """ARs trained on labels alone, for as many updates as the pairs' own in all."""


class VllmConfig(FrozenModel):
    """Rollouts by vLLM, which holds weights and cache of its own beside the trainer's."""

    memory: float = Field(default=0.4, gt=0, lt=1)
    """Share of the device's memory that it takes."""
    most_k3: float = Field(default=0.01, gt=0)
    """Training stops where its log-probabilities are further from the trainer's."""
    eager: bool = False
    """Not compiled: starts sooner, writes slower."""


class JointRlConfig(FrozenModel):
    """Joint RL; names as in `train.config.RlConfig`."""

    steps: int = Field(ge=1)
    vectors: int = Field(default=128, ge=1)
    group: int = Field(default=8, ge=2)
    max_new_tokens: int = Field(default=150, ge=8)
    temperature: float = Field(default=1.0, gt=0)
    micro_batch: int | None = Field(default=None, ge=1)
    kl_coefficient: float = Field(default=0.01, ge=0)
    unclosed_reward: float = -2.0
    optimizer: OptimizerConfig
    """Of the AV's, and of the AR's where that has none of its own."""
    reconstructor_optimizer: OptimizerConfig | None = None
    reconstructor_updates: int = Field(default=1, ge=1)
    length_allowance: int | None = Field(default=None, ge=1)
    """None: `max_new_tokens`."""
    length_cost: float = Field(default=0.0, ge=0)
    precision_slack: float = Field(default=0.02, ge=0)
    judge_weight: float = Field(default=0.0, ge=0)
    """Of what an explanation's claims are worth to a judge of `[grounding]`, in the reward."""
    judge_neutral: float | None = Field(default=None, gt=0, le=1)
    """The probability at which a claim is worth as much as silence."""
    reword_share: float = Field(default=0.0, ge=0, le=1)
    """With a judge, and labels whose teacher can paraphrase a claim."""
    evaluate_every: int = Field(default=50, ge=1)
    rollouts: Literal["local", "vllm"] = "local"
    """Who writes the explanations. A run may go on with the other: both sample the same policy."""
    vllm: VllmConfig = VllmConfig()

    @pydantic.model_validator(mode="after")
    def _says_what_a_claim_is_worth(self) -> Self:
        if (self.judge_weight > 0) != (self.judge_neutral is not None):
            raise ValueError(
                f"judge_weight = {self.judge_weight:g} with judge_neutral = {self.judge_neutral}: "
                "give both, or neither"
            )
        return self

    @property
    def most_k3(self) -> float | None:
        """What `train_rl` is told; None for the local engine, which runs the trainer's weights."""
        return self.vllm.most_k3 if self.rollouts == "vllm" else None


class Origin(FrozenModel):
    """What decided the labels, and the models that are trained on them."""

    target: ModelTarget
    corpus: CorpusConfig
    teacher: str
    brief: bool = False
    shares: dict[str, float] = {}
    lora: LoraConfig | None = None
    grounding: GroundingConfig | None = None
    num_grounded: int | None = None
    """Documents whose labels a judge was asked about."""


class StageSettings(FrozenModel):
    """What decides a stage's result."""

    seed: int
    precision: Precision
    source: Origin
    verbalizer: SftConfig | None = None
    reconstructor: SftConfig | None = None
    rl: AnyRl | None = None
    abstention: AbstentionConfig | None = None
    settling: ModelSettlingConfig | None = None


STAGE_PARTS = {
    "verbalizer": ("verbalizer",),
    "reconstructor": ("reconstructor",),
    "rl": ("verbalizer", "reconstructor", "rl"),
}
"""Whose settings decide a stage of one pair, besides its source."""


JUDGED = {"judge_weight", "judge_neutral", "reword_share"}
"""Keys of `[rl]` that are for the grounded pair alone."""


class ModelRecipe(FrozenModel):
    """Everything that decides an NLA of an existing model."""

    name: str
    domain: str = ""
    """The texts of the corpus, as a phrase that completes "trained on …"; for the pair's card."""
    seed: int = Field(default=0, ge=0)
    precision: Precision = "bfloat16"
    checkpoint_every: int = Field(default=50, ge=1)
    target: ModelTarget
    corpus: CorpusConfig
    teacher: TeacherConfig
    lora: LoraConfig | None = None
    warm_start: WarmStartConfig
    grounding: GroundingConfig | None = None
    rl: JointRlConfig
    abstention: AbstentionConfig | None = None
    settling: ModelSettlingConfig | None = None
    comparison: ComparisonConfig | None = None
    report: ReportConfig = ReportConfig()
    devices: DevicesConfig = DevicesConfig()

    @pydantic.model_validator(mode="after")
    def _rounded_base_is_whole(self) -> Self:
        if self.lora is not None and self.lora.base_bits and self.devices.parallel == "fsdp":
            raise ValueError(
                f"lora.base_bits = {self.lora.base_bits} with devices.parallel = 'fsdp': a rounded "
                "base is not sharded. Leave one of them out: 70B in 4 bits take 36 GiB"
            )
        return self

    @property
    def claims(self) -> ClaimSystem:
        """Of the teacher "text" claims that can be checked; of others spans of their prose."""
        return TEXT if self.teacher.is_by_rule else SPANS

    @pydantic.model_validator(mode="after")
    def _bounds_kinds_that_there_are(self) -> Self:
        thresholds = {} if self.grounding is None else self.grounding.thresholds
        unknown = sorted(set(thresholds) - set(self.claims.kinds))
        if unknown:
            raise ValueError(
                f"grounding.thresholds: {unknown[0]!r} is no kind of claim in the labels of "
                f"{self.teacher.model!r}. The kinds are {', '.join(self.claims.kinds)}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _judges_what_it_has_not_seen(self) -> Self:
        if self.rl.judge_weight > 0 and self.grounding is None:
            raise ValueError(
                f"rl.judge_weight = {self.rl.judge_weight:g} without [grounding]: its judges are "
                "trained there. Add [grounding], or leave judge_weight out"
            )
        if self.rl.judge_weight > 0 and self.corpus.rl_documents == 0:
            raise ValueError(
                f"rl.judge_weight = {self.rl.judge_weight:g} with corpus.rl_documents = 0: the "
                "judge has learned from these vectors. Give RL documents of its own"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _abstains_where_claims_can_be_checked(self) -> Self:
        if self.abstention is None:
            return self
        if self.grounding is None or self.claims.checker is None:
            lacks = "[grounding]" if self.grounding is None else f"teacher.model = {TEXT.name!r}"
            raise ValueError(
                f"[abstention] without {lacks}: it learns from which claims of a grounded pair are "
                f"true. Give {lacks}, or leave [abstention] out"
            )
        if self.devices.parallel == "fsdp":
            raise ValueError(
                "[abstention] with devices.parallel = 'fsdp': a sharded AV does not read its own "
                "words yet. Give 'ddp', or leave [abstention] out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _settles_a_grounded_pair(self) -> Self:
        if self.settling is not None and self.grounding is None:
            raise ValueError(
                "[settling] without [grounding]: it is the last stage of a grounded pair. Add "
                "[grounding], or leave [settling] out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _settles_on_as_many_as_there_are(self) -> Self:
        settling, corpus = self.settling, self.corpus
        if settling is None:
            return self
        documents = settling.documents or corpus.rl_documents or corpus.documents
        most = documents * corpus.positions_per_document
        if settling.vectors > most:
            raise ValueError(
                f"settling.vectors = {settling.vectors}: its {documents} documents have {most} "
                "positions. Give more settling.documents, or fewer vectors"
            )
        return self

    # -- what the stages ask (`world.PairRecipe`) --------------------------------------------------
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
        compared = self.comparison is not None and self.comparison.plain_pair
        return self.grounding is None or compared

    @property
    def has_rows(self) -> bool:
        return self.comparison is not None

    @property
    def has_controls(self) -> bool:
        return self.comparison is not None and self.comparison.controls

    @property
    def checked_grounding(self) -> GroundingConfig:
        assert self.grounding is not None, "the stages of a recipe without one are never run"
        return self.grounding

    def plain(self, num_labels: int) -> PairTraining:
        warm = self.warm_start
        return PairTraining(*_warm_starts(warm, warm.epochs, num_labels), self._plain_rl())

    def grounded(self, num_labels: int) -> PairTraining:
        warm = self.checked_grounding.warm_start or self.warm_start
        return PairTraining(*_warm_starts(warm, warm.epochs, num_labels), self._judged_rl())

    def judge(self, num_labels: int) -> PairTraining:
        """The training of a judge on half of the labels. Raises as `plain`."""
        epochs = self.checked_grounding.epochs
        return PairTraining(*_warm_starts(self.warm_start, epochs, num_labels), self._plain_rl())

    def decided_by(
        self, stage: str, training: PairTraining, trained: SftConfig | None = None
    ) -> StageSettings:
        name = stage.removeprefix("grounded-")
        is_grounded = name != stage or stage in ("abstention", "settling", "control-grounded")
        settings = self.grounded_source if is_grounded else self._plain_source
        if name == "abstention":
            parts = {"abstention": self.abstention} | _parts_of(training, "rl")
        elif name == "settling":
            parts = {"abstention": self.abstention, "settling": trained}
            parts |= _parts_of(training, "rl")
        elif name.startswith("control-"):
            parts = {"reconstructor": trained}
        else:
            parts = _parts_of(training, name)
        return settings.model_copy(update=parts)

    def judged_source(self, num_labels: int) -> StageSettings:
        """What decides the verdicts of the plain pair's AV."""
        source = self._plain_source.source.model_copy(
            update={"num_grounded": self.checked_grounding.documents}
        )
        parts = {"source": source, "verbalizer": self.plain(num_labels).verbalizer}
        return self._plain_source.model_copy(update=parts)

    @property
    def grounded_source(self) -> StageSettings:
        """What decides the grounded labels."""
        return self._source(self.grounding)

    @property
    def _plain_source(self) -> StageSettings:
        return self._source(None)

    def _source(self, grounding: GroundingConfig | None) -> StageSettings:
        origin = Origin(
            target=self.target,
            corpus=self.corpus,
            teacher=self.teacher.called,
            brief=self.teacher.brief,
            shares=self.teacher.shares,
            lora=self.lora,
            grounding=grounding,
        )
        return StageSettings(seed=self.seed, precision=self.precision, source=origin)

    def _plain_rl(self) -> RlConfig:
        rl = self.rl
        own = {"optimizer", "reconstructor_optimizer", "rollouts", "vllm", *JUDGED}
        fields = rl.model_dump(exclude=own) | {
            "length_allowance": rl.length_allowance or rl.max_new_tokens,
            "verbalizer": rl.optimizer,
            "reconstructor": rl.reconstructor_optimizer or rl.optimizer,
        }
        return RlConfig(**fields)

    def _judged_rl(self) -> RlConfig | GroundedRlConfig:
        plain = self._plain_rl()
        if self.rl.judge_weight == 0:
            return plain
        return GroundedRlConfig(**plain.model_dump(), **self.rl.model_dump(include=JUDGED))


def _warm_starts(
    warm: WarmStartConfig, epochs: int, num_labels: int
) -> tuple[SftConfig, SftConfig]:
    """Of AV and AR; a tenth of the labels, at most 256, is held out.

    Raises:
        InputError: fewer than `MIN_LABELS`.
    """
    if num_labels < MIN_LABELS:
        raise InputError(
            f"The corpus and the teacher gave {num_labels} labels; training needs "
            f"{MIN_LABELS}. Give more documents, or look into the refusals."
        )
    held_out = held_out_of(num_labels)

    def sft(epochs: int, optimizer: OptimizerConfig, claim_weight: float = 1.0) -> SftConfig:
        return SftConfig(
            steps=max(1, epochs * (num_labels - held_out) // warm.batch_size),
            batch_size=warm.batch_size,
            optimizer=optimizer,
            claim_weight=claim_weight,
            held_out=held_out,
            evaluate_every=warm.evaluate_every,
            micro_batch=warm.micro_batch,
        )

    return (
        sft(epochs, warm.optimizer, warm.claim_weight),
        sft(
            warm.reconstructor_epochs or epochs,
            warm.reconstructor_optimizer or warm.optimizer,
        ),
    )


def _parts_of(training: PairTraining, stage: str) -> dict[str, FrozenModel]:
    return {part: getattr(training, part) for part in STAGE_PARTS[stage]}


def is_of_a_model(path: Path, overrides: Sequence[str] = ()) -> bool:
    """Whether a recipe's target is an existing model, and not one that the recipe makes.

    Raises:
        ConfigError: the file is no TOML, or its target is no table.
    """
    target = load_toml(path, overrides).get("target", {})
    if not isinstance(target, dict):
        raise ConfigError(f"{path}: target: found {target!r}, expected a table.")
    return "checkpoint" in target
