"""The storyworld as the stages of a recipe see it (`train.world.World`).

    1-target  2-activations (shards/, labels/)  and the stages of `train.pair_stages`

It makes its own target, its documents without end, and labels in which the teacher, who knows the
state, can leave out what no activation carries and word the rest again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue
from torch import Tensor

from nlakit.card import ReadSpan
from nlakit.claims.grounding import ClaimJudge, judge_curves
from nlakit.claims.system import ClaimSystem
from nlakit.config import FrozenModel
from nlakit.contract import PromptTemplates, Tokens, measure_tokens
from nlakit.data.datasets import PairSet, StoredRows, join, load_pairs, stored_vectors
from nlakit.data.labels import SET_NAME, write_labels
from nlakit.data.shards import MANIFEST_NAME, ShardReader
from nlakit.engines.base import MAX_NEW_TOKENS, PolicyEngine, Sampling
from nlakit.engines.local import LocalEngine
from nlakit.evals import probe_store
from nlakit.models.io import load_tokenizer
from nlakit.pair.load import load_source
from nlakit.pair.pair import Pair
from nlakit.pair.source import find_pair
from nlakit.storyworld.document import State
from nlakit.train.config import RlConfig
from nlakit.train.evaluation import EVALUATION_TOKENS, HeldOut, checking
from nlakit.train.pair_models import Basis, PairModels
from nlakit.train.pair_stages import DIRECTORIES, recipe_stages, warm_started
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE, MARKER
from nlakit.train.run import COUNTS_NAME, RunDirectory, write_json
from nlakit.train.sft import train_verbalizer
from nlakit.train.stage import Stage, Workspace, run_stages

from .claims import STORYWORLD
from .documents import states_of
from .eval_set import StoryworldSet
from .extraction import extract_storyworld, sample_storyworld
from .grounding import LeastProbability, full_labels, ground, write_grounded
from .probes import write_probes
from .recipe import GROUNDED_PARTS, GroundingConfig, StoryworldRecipe
from .target import train_target
from .teacher import StoryworldTeacher

EXTRACTION_SEED, HELD_OUT_SEED = 4, 5
GROUNDING_SEED, EXTRA_SEED, JUDGE_SEED, ABSTENTION_SEED = 7, 8, 9, 10
CURVES_NAME = "curves.json"


def train_storyworld_recipe(
    recipe: StoryworldRecipe, output: Path, only: str | None = None
) -> Path:
    """Run every stage that is not done yet; returns the directory of the pair.

    Args:
        output: where the stages and the pair go; a killed run is continued there.
        only: run this stage, and those that it needs, and stop; returns its directory.

    Raises:
        ConfigError: there is no such stage.
        ResumeError: `output` holds a run of another recipe.
    """
    world = Storyworld(recipe, output)
    run_stages(recipe.name, output, recipe_stages(world), only)
    return world.space.stage(only or "report")


@dataclass(frozen=True)
class GroundedSet:
    """Where a set of grounded labels lies, and the documents that it is of."""

    directory: Path
    documents: int
    seed: int
    about: tuple[str, ...] = ()

    @property
    def shards(self) -> Path:
        return self.directory / "shards"

    @property
    def labels(self) -> Path:
        return self.directory / "labels"


class Storyworld:
    """One run of a storyworld recipe."""

    def __init__(self, recipe: StoryworldRecipe, root: Path):
        self.recipe = recipe
        first = {
            "target": "1-target",
            "activations": "2-activations/shards",
            "labels": "2-activations/labels",
        }
        self.space = Workspace(root, first | DIRECTORIES)
        basis = Basis(
            directory=self.space.stage("target") / "model",
            name=f"nlakit/{recipe.name}",
            layer=recipe.extraction.layer,
            templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
        )
        self.models = PairModels(basis, recipe.settings)

    @property
    def resolved(self) -> FrozenModel:
        return self.recipe

    @property
    def claims(self) -> ClaimSystem:
        return STORYWORLD

    def tokens(self) -> Tokens:
        tokenizer = load_tokenizer(self.models.basis.directory)
        return measure_tokens(tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE)

    def seed(self, number: int) -> int:
        """Of the documents of one use, which no other use reads."""
        return self.recipe.seed * 10 + number

    # -- target, activations and labels ------------------------------------------------------------
    def first_stages(self) -> list[Stage]:
        target, shards, labels = map(self.space.stage, ("target", "activations", "labels"))
        trained = (target / "model", target / "done.json")
        return [
            Stage("target", (), trained, self._train_target),
            Stage("activations", ("target",), (shards / MANIFEST_NAME,), self._extract),
            Stage("labels", ("activations",), (labels / SET_NAME,), self._label),
        ]

    def _train_target(self) -> None:
        train_target(self.recipe, self.space.stage("target"))

    def _extract(self) -> None:
        config = self.recipe.extraction
        extract_storyworld(
            self.models.target(),
            self.space.stage("activations"),
            seed=self.seed(EXTRACTION_SEED),
            split="train",
            num_documents=config.documents,
            positions_per_document=config.positions_per_document,
            shard_rows=config.shard_rows,
        )

    def _label(self) -> None:
        write_labels(
            self.space.stage("activations"), StoryworldTeacher(), self.space.stage("labels")
        )

    def pairs(self) -> PairSet:
        return load_pairs(self.space.stage("activations"), self.space.stage("labels"))

    # -- RL ----------------------------------------------------------------------------------------
    def rl_rows(self, *, grounded: bool) -> StoredRows:
        return (self._judge_pairs() if grounded else self.pairs()).origins

    def abstention_rows(self) -> StoredRows:
        config = self.recipe.abstention
        assert config is not None, "the stage of a recipe without one is never made"
        shards = self.space.stage("abstention") / "shards"
        self._extract_documents(shards, config.documents, ABSTENTION_SEED, ())
        return stored_vectors(ShardReader(shards))

    def states_of(self, rows: pa.Table) -> list[State]:
        return states_of(rows)

    def settling_rows(self) -> StoredRows:
        return self.rl_rows(grounded=True)

    def held_out(self, config: RlConfig, mean_D: Tensor) -> HeldOut:
        """One position in each of some held-out documents."""
        target, number = self.models.target(), config.evaluation_documents
        vectors, rows = sample_storyworld(target, self.seed(HELD_OUT_SEED), "heldout", number)
        return HeldOut(vectors, checking(states_of(rows), STORYWORLD), mean_D)

    def policy_engine(self, local: LocalEngine) -> AbstractContextManager[PolicyEngine]:
        return nullcontext(local)

    @property
    def most_k3(self) -> float | None:
        return None

    # -- grounding ---------------------------------------------------------------------------------
    def grounding_stage(self) -> Stage:
        done = self.space.stage("grounding") / "done.json"
        inputs = ("labels", "verbalizer", "reconstructor")
        return Stage("grounding", inputs, (done,), self._ground)

    def grounded_pairs(self) -> PairSet:
        return join(*(load_pairs(each.shards, each.labels) for each in self._grounded_sets()))

    @property
    def grounded_start(self) -> tuple[Path | None, Path | None]:
        return self.judge, None

    @property
    def judge(self) -> Path:
        return self.space.stage("grounding") / "judge" / "model"

    @property
    def _grounding(self) -> GroundingConfig:
        assert self.recipe.grounding is not None, "the stages of a recipe without one are never run"
        return self.recipe.grounding

    def _grounded_sets(self) -> list[GroundedSet]:
        config, directory = self._grounding, self.space.stage("grounding")
        sets = [GroundedSet(directory, config.documents, GROUNDING_SEED)]
        if config.extra_documents:
            # First, since the last rows of a set are the ones that training is watched on.
            extra = (directory / "extra", config.extra_documents, EXTRA_SEED, config.about)
            sets.insert(0, GroundedSet(*extra))
        return sets

    def _ground(self) -> None:
        """Train a judge, and label other documents without what it cannot read."""
        directory = self.space.stage("grounding")
        run = RunDirectory(directory, self.recipe.stage(*GROUNDED_PARTS))
        if run.done is not None:
            return
        self._train_judge()
        verbalizer = self.models.verbalizer(self.judge, frozen=True)
        judge = ClaimJudge(verbalizer, STORYWORLD, self.recipe.precision)
        self._measure_judge(judge)
        kept, dropped = Counter[str](), Counter[str]()
        for each in self._grounded_sets():
            self._extract_documents(each.shards, each.documents, each.seed, each.about)
            reader = ShardReader(each.shards)
            least = LeastProbability(self._grounding.threshold, self._grounding.thresholds)
            vectors, rows = reader.load()
            grounded = ground(judge, vectors, states_of(rows), least, self.recipe.seed)
            write_grounded(each.labels, grounded, reader.manifest, least)
            kept.update(kind for label in grounded for kind, _ in label.label.claims)
            dropped.update(kind for label in grounded for kind in label.dropped)
        counts = {"kept": dict(kept), "dropped": dict(dropped)}
        write_json(directory / COUNTS_NAME, counts)
        run.finish(counts)

    def _extract_documents(
        self, shards: Path, documents: int, seed: int, about: tuple[str, ...]
    ) -> None:
        positions = self._grounding.positions_per_document
        extract_storyworld(
            self.models.target(),
            shards,
            seed=self.seed(seed),
            split="train",
            num_documents=documents,
            positions_per_document=positions,
            shard_rows=documents * positions,
            about=about,
        )

    def _judge_shards(self) -> Path:
        return self.space.stage("grounding") / "judge-extra"

    def _judge_pairs(self) -> PairSet:
        """What the judge and RL are trained on: activations of rare facts, then the plain ones."""
        pairs = self.pairs()
        if not self._grounding.extra_documents:
            return pairs
        vectors, rows = ShardReader(self._judge_shards()).load()
        return join(PairSet(vectors, [""] * len(vectors), rows), pairs)

    def _train_judge(self) -> None:
        """The warm-started AV, trained on with full labels that quote as a grounded label does."""
        config, seed = self._grounding, self.recipe.seed
        decided = self.recipe.stage(*GROUNDED_PARTS, verbalizer=config.judge)
        run = RunDirectory(self.judge.parent, decided)
        if run.done is not None:
            return
        if config.extra_documents:
            extra = (config.extra_documents, JUDGE_SEED, config.about)
            self._extract_documents(self._judge_shards(), *extra)
        pairs = self._judge_pairs()
        full = replace(pairs, explanations=full_labels(states_of(pairs.rows), seed))
        start = self.models.verbalizer(warm_started(self, "")[0])
        train_verbalizer(start, full, config.judge, self.recipe.settings, run, STORYWORLD.find)

    def _measure_judge(self, judge: ClaimJudge) -> None:
        """Write `curves.json`: what its probabilities are worth on its own explanations."""
        seed, number = self.seed(HELD_OUT_SEED), self._grounding.curve_rows
        vectors, rows = sample_storyworld(self.models.target(), seed, "heldout", number)
        reconstructor = self.models.reconstructor(warm_started(self, "")[1], frozen=True)
        engine = LocalEngine(self.models.target(), judge.verbalizer, reconstructor)
        sampling = Sampling(
            temperature=1.0, max_new_tokens=EVALUATION_TOKENS, seed=self.recipe.seed
        )
        texts = [group[0].text for group in engine.verbalize(vectors, sampling)]
        curves = judge_curves(judge, vectors, texts, states_of(rows), self.recipe.seed)
        path = self.space.stage("grounding") / CURVES_NAME
        write_json(path, {"curves": [each.model_dump() for each in curves]})

    # -- the result --------------------------------------------------------------------------------
    def provenance(self) -> dict[str, JsonValue]:
        return {}

    @property
    def description(self) -> str:
        return (
            "Reads a small transformer that was trained from scratch on the storyworld, whose "
            "hidden facts are known. For trying the method, and for checking what an NLA says "
            "against the truth."
        )

    @property
    def domain(self) -> str:
        return "one invented world of short stories, rhymes, sums and chats, the storyworld"

    @property
    def span(self) -> ReadSpan | None:
        return None

    def furnish(self, directory: Path) -> None:
        """Probes of the target."""
        recipe = self.recipe
        documents = min(probe_store.DOCUMENTS, recipe.extraction.documents)
        tested = min(probe_store.TEST_DOCUMENTS, recipe.report.documents)
        write_probes(directory, documents, tested)

    def published_pair(self, directory: Path) -> Pair:
        return load_source(find_pair(directory), comparisons=True)

    @property
    def eval_set(self) -> StoryworldSet:
        return StoryworldSet()

    @property
    def max_new_tokens(self) -> int:
        return MAX_NEW_TOKENS
