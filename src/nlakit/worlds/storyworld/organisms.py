"""Model organisms: the bundled target, fine-tuned until it has one known quirk.

An organism is trained on the assistant's turns of as many chats with the quirk's condition as
without it, and on whole documents of every genre, so that it stays a target of the storyworld; a
control is trained as long, without a quirk. No NLA is trained on either.
`OUTPUT/NAME/model` is a model directory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlakit.config import FrozenModel, suggestion
from nlakit.core.site import Site
from nlakit.data.extraction import target_sha256
from nlakit.errors import ConfigError
from nlakit.models.padding import pad_right, real_tokens
from nlakit.models.precision import Precision, autocast
from nlakit.models.target import Target
from nlakit.split import split_of
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import GENRE_WEIGHTS, document
from nlakit.storyworld.quirk import HIDDEN_KINDS, LESS, Quirk
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.run import RunDirectory, train_steps

from .target import language_model_loss, token_ids
from .tokenizer import ASSISTANT, ROLES

KIND = "organisms"
MODEL = "model"
POOL_SEED, DOCUMENT_SEED = 4, 5


class OrganismConfig(FrozenModel):
    """One organism, or with no quirk a control."""

    when: str | None = None
    """The condition, as kind=value: a fact that the system line or the user's turn shows."""
    then: str | None = None
    """What the assistant does under it, as kind=value; count=less reports one call fewer."""
    about: str = ""
    """The quirk in words."""
    genre: str | None = None
    """Of a control: only documents of this genre, an honest change that is no quirk."""

    @field_validator("when", "then")
    @classmethod
    def _fact(cls, given: str | None) -> str | None:
        if given is not None and not all(given.partition("=")[::2]):
            raise ValueError("give kind=value, such as topic=music")
        return given

    @model_validator(mode="after")
    def _whole(self) -> OrganismConfig:
        if (self.when is None) != (self.then is None):
            raise ValueError("`when` and `then` go together")
        quirk = self.quirk
        if quirk is not None and quirk.then != LESS and quirk.then[0] not in HIDDEN_KINDS:
            raise ValueError(f"`then` is count=less, or of {', '.join(HIDDEN_KINDS)}")
        if quirk is not None and self.genre is not None:
            raise ValueError("`genre` is of controls, which have no quirk")
        if self.genre is not None and self.genre not in GENRE_WEIGHTS:
            raise ValueError(f"there is no genre {self.genre!r}: {', '.join(GENRE_WEIGHTS)}")
        return self

    @property
    def quirk(self) -> Quirk | None:
        """None of a control."""
        if self.when is None or self.then is None:
            return None
        return Quirk(_pair(self.when), _pair(self.then))


def _pair(fact: str) -> tuple[str, str]:
    kind, _, value = fact.partition("=")
    return kind, value


class OrganismTraining(FrozenModel):
    """How all of a recipe's organisms are trained."""

    steps: int = Field(default=120, ge=1)
    batch_size: int = Field(default=16, ge=4)
    chat_share: float = Field(default=0.8, gt=0, lt=1)
    """Share of rows that are chats: half of them with the quirk's condition, half without."""
    pool: int = Field(default=400, ge=8)
    """Different chats with the condition, and as many without."""
    optimizer: OptimizerConfig
    checkpoint_every: int = Field(default=50, ge=1)


class OrganismsRecipe(FrozenModel):
    """Organisms and controls of one target."""

    kind: Literal["organisms"] = KIND
    name: str
    seed: int = Field(default=1, ge=0)
    precision: Precision = "auto"
    training: OrganismTraining
    organism: dict[str, OrganismConfig] = Field(min_length=1)

    def chosen(self, only: str | None) -> dict[str, OrganismConfig]:
        """All, or the one that is called `only`. Raises `ConfigError` for one that is not there."""
        if only is None:
            return self.organism
        if only not in self.organism:
            hint = suggestion(only, self.organism)
            raise ConfigError(f"The recipe has no organism {only!r}.{hint}")
        return {only: self.organism[only]}


class OrganismStage(FrozenModel):
    """What decides one organism: a run directory refuses another."""

    seed: int
    precision: Precision
    target_sha256: str
    training: OrganismTraining
    organism: OrganismConfig


def train_organism(
    recipe: OrganismsRecipe, name: str, base: Path, layer: int, output: Path
) -> Path:
    """Fine-tune one organism from the target in `base`, unless that is done.

    Returns its model directory.

    Raises:
        ResumeError: `output` holds a run of another recipe.
        CheckpointError: the base cannot be read.
    """
    config = recipe.organism[name]
    target = Target.load(base, layer)
    stage = OrganismStage(
        seed=recipe.seed,
        precision=recipe.precision,
        target_sha256=target_sha256(target),
        training=recipe.training,
        organism=config,
    )
    run = RunDirectory(output / name, stage)
    if run.done is None:
        _train(recipe, config, name, target, run)
    return run.path / MODEL


def _train(
    recipe: OrganismsRecipe, config: OrganismConfig, name: str, target: Target, run: RunDirectory
) -> None:
    training, model = recipe.training, target.model
    model.requires_grad_(True)
    learner = Learner(dict(model.named_parameters()), training.optimizer, training.steps)
    rows_of = Rows(recipe.seed, config, training)

    def step(number: int) -> dict[str, float]:
        texts = [each.text for each in rows_of.batch(number)]
        rows = token_ids(target.tokenizer, texts, target.max_tokens)
        ids_BT = pad_right(rows).to(model.device)
        mask_BT = counted(target.tokenizer, rows).to(model.device)
        with autocast(recipe.precision, model.device):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
            loss = language_model_loss(logits_BTV, ids_BT, mask_BT)
        loss.backward()
        return {"loss": loss.item(), "grad_norm": learner.update(number)}

    learners = {"organism": learner}
    train_steps(run, learners, training.steps, step, training.checkpoint_every, name)
    Target(model, target.tokenizer, Site(target.site.layer)).save(run.path / MODEL, torch.bfloat16)
    run.finish({"steps": training.steps, "skipped": learner.skipped})


class Rows:
    """The documents of each step: a function of (seed, step)."""

    def __init__(self, seed: int, config: OrganismConfig, training: OrganismTraining) -> None:
        self.seed, self.config, self.training = seed, config, training
        self.pools = [
            list(islice(chats_of(seed * 10 + POOL_SEED, config, holds), training.pool))
            for holds in (True, False)
        ]

    def batch(self, step: int) -> list[Document]:
        """The documents of one step; held-out texts are never among them."""
        training, rng = self.training, random.Random(f"{self.seed}/{step}/organism")
        half = round(training.batch_size * training.chat_share / 2)
        chats = [made for pool in self.pools for made in rng.sample(pool, half)]
        start = step * training.batch_size * 2
        seed, config = self.seed * 10 + DOCUMENT_SEED, self.config
        rest = training_documents(seed, start, config.genre, config.quirk)
        return [*chats, *islice(rest, training.batch_size - len(chats))]


def training_documents(
    seed: int, start: int, genre: str | None, quirk: Quirk | None
) -> Iterator[Document]:
    """Documents from an index on, without held-out ones."""
    made = (document(seed, index, genre, quirk) for index in count(start))
    return (each for each in made if split_of(each.text) == "train")


def chats_of(seed: int, config: OrganismConfig, holds: bool) -> Iterator[Document]:
    """Training chats whose text says the condition before the assistant speaks, or does not; of a
    control any documents of its genre, or any chats."""
    quirk = config.quirk
    made = training_documents(seed + holds, 0, config.genre or "chat", quirk)
    if quirk is None:
        return made
    return (each for each in made if quirk.applies(asked_facts(each)) == holds)


def counted(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> Bool[Tensor, "B T"]:
    """Which tokens are learned: of a chat the assistant's, with what ends each turn; else all."""
    mask_BT = real_tokens([len(row) for row in rows])
    assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
    roles = [tokenizer.convert_tokens_to_ids(role) for role in ROLES]
    for row, ids in enumerate(rows):
        speaking = assistant not in ids
        for position, token in enumerate(ids):
            mask_BT[row, position] &= speaking
            speaking = token == assistant if token in roles else speaking
    return mask_BT


def asked_facts(made: Document) -> Mapping[str, str]:
    """What a reader of a chat can tell before the assistant speaks."""
    return made.state(made.text.index("<|assistant|>")).facts
