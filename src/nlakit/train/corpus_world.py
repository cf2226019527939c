"""The world of a model recipe: a corpus of texts, an existing model that reads them, a teacher.

    1-activations  2-labels  and the stages of `pair_stages`

With `[lora]` the target, the pair, its frozen start and the rollouts share one base in memory, and
a stage's result is an adapter of a few megabytes; the published pair is merged. Without, both are
trained whole.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import JsonValue

from nlakit.card import ReadSpan, read_card
from nlakit.claims.system import ClaimSystem, State
from nlakit.claims.text.checking import TEXT
from nlakit.config import FrozenModel
from nlakit.console import notices
from nlakit.contract import PromptTemplates, Tokens
from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import NEXT_TOKENS, extract_corpus
from nlakit.data.datasets import PairSet, StoredRows, load_pairs, stored_vectors
from nlakit.data.extraction import ActivationRows
from nlakit.data.labels import SET_NAME, Teacher, places_of, write_labels
from nlakit.data.shards import MANIFEST_NAME, ShardReader
from nlakit.engines.base import PolicyEngine
from nlakit.engines.local import LocalEngine
from nlakit.errors import ConfigError
from nlakit.evals.corpus_set import CorpusSet
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.readers import TeacherReader
from nlakit.models.hub import locate
from nlakit.models.io import load_tokenizer
from nlakit.pair.pair import Pair
from nlakit.split import Split
from nlakit.teachers.cost import Price
from nlakit.teachers.named import CACHE_NAME, paid_of, teacher_named
from nlakit.teachers.text import TextTeacher

from . import distributed, label_grounding
from .config import RlConfig
from .evaluation import HeldOut, checking
from .model_recipe import ModelRecipe
from .pair_models import Basis, PairModels, mean_vector
from .pair_stages import DIRECTORIES, recipe_stages, warm_started
from .progress import count_progress
from .prompts import AR_TEMPLATE, INSTRUCTED_AV_TEMPLATE, model_tokens
from .publication import final_pair, main_control
from .rollouts import check_rollouts, policy_engine
from .stage import Stage, Workspace, run_stages

WARM_START, RL, HELD_OUT = "warm-start", "rl", "held-out"
GROUNDING, ABSTENTION, SETTLING = "grounding", "abstention", "settling"
"""Sets of activations."""


def train_model_recipe(recipe: ModelRecipe, output: Path, only: str | None = None) -> Path:
    """Run every stage that is not done yet; returns the directory of the pair.

    Args:
        output: where the stages and the pair go.
        only: run this stage, and those that it needs, and stop; returns its directory.

    Raises:
        ConfigError: there is no such stage, the recipe asks for another number of devices, or its
            marker or its model cannot be an AV's.
        MissingExtraError: its rollouts are vLLM's, which is not installed.
        InputError: the corpus cannot be read, or is too small.
        ResumeError: `output` holds a run of another recipe.
    """
    _check_devices(recipe)
    check_rollouts(recipe)
    world = CorpusWorld(recipe, output)
    # Needed after the labels, and may be refused: better before they are paid for.
    world.tokens()
    run_stages(recipe.name, output, recipe_stages(world), only)
    return world.space.stage(only or "report")


def _check_devices(recipe: ModelRecipe) -> None:
    """Refuse what does not go together, and another number of processes than the recipe's."""
    devices = recipe.devices
    rates = (recipe.warm_start.optimizer.muon_lr, recipe.rl.optimizer.muon_lr)
    if devices.parallel == "fsdp" and recipe.lora is None and any(rates):
        raise ConfigError(
            f"{recipe.name}: optimizer.muon_lr with devices.parallel = 'fsdp': Muon needs whole "
            "matrices, and each process has a part of them. Leave muon_lr out, or add [lora]."
        )
    if devices.count != distributed.num_processes():
        raise ConfigError(
            f"{recipe.name} asks for {devices.count} devices, found {distributed.num_processes()} "
            f"processes. Start it with: torchrun --nproc-per-node {devices.count} -m nlakit train "
            "…, or give devices.count=1 devices.parallel=none."
        )
    if recipe.rl.vectors < devices.count:
        raise ConfigError(f"rl.vectors = {recipe.rl.vectors}: fewer than {devices.count} devices.")


class CorpusWorld:
    """One run of a model recipe (`world.World`)."""

    def __init__(self, recipe: ModelRecipe, root: Path):
        self.recipe = recipe
        first = {"activations": "1-activations", "labels": "2-labels"}
        self.space = Workspace(root, first | DIRECTORIES)
        self.console = notices(shown=distributed.is_first())
        asked = recipe.target
        self.models = PairModels(
            Basis(
                directory=locate(asked.checkpoint),
                name=asked.called,
                layer=asked.layer,
                templates=PromptTemplates(av=INSTRUCTED_AV_TEMPLATE, ar=AR_TEMPLATE),
                injection_scale=asked.injection_scale,
            ),
            recipe.settings,
            recipe.lora,
            recipe.devices,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )

    @property
    def resolved(self) -> FrozenModel:
        """Without paths of this machine: the model by its name, the corpus by its file's."""
        recipe, source = self.recipe, Path(self.recipe.corpus.source)
        named = source.name if source.exists() else recipe.corpus.source
        return recipe.model_copy(
            update={
                "target": recipe.target.model_copy(update={"checkpoint": recipe.target.called}),
                "corpus": recipe.corpus.model_copy(update={"source": named}),
                "teacher": recipe.teacher.model_copy(
                    update={"cache": None, "model": recipe.teacher.called}
                ),
            }
        )

    @property
    def claims(self) -> ClaimSystem:
        return self.recipe.claims

    @property
    def _is_by_rule(self) -> bool:
        """Whether labels are written by rule from the text and the target's next tokens."""
        return self.claims is TEXT

    def tokens(self) -> Tokens:
        tokenizer, asked = load_tokenizer(self.models.basis.directory), self.recipe.target
        return model_tokens(tokenizer, asked.marker, asked.checkpoint, self.recipe.name)

    # -- activations and labels --------------------------------------------------------------------
    def first_stages(self) -> list[Stage]:
        sets = [*self._num_documents(), HELD_OUT]
        manifests = tuple(self.shards(name) / MANIFEST_NAME for name in sets)
        told = tuple(self.labels(name) / SET_NAME for name in self._labelled())
        return [
            Stage("activations", (), manifests, self._extract_all),
            Stage("labels", ("activations",), told, self._label_all),
        ]

    def shards(self, name: str) -> Path:
        """Where a set of activations lies."""
        return self.space.stage("activations") / name

    def labels(self, name: str) -> Path:
        """Where the teacher's labels of a set lie."""
        directory = self.space.stage("labels")
        return directory if name == WARM_START else directory / name

    def _num_documents(self) -> dict[str, int]:
        """Documents of each set of the training split, in the order in which they are read."""
        corpus, recipe = self.recipe.corpus, self.recipe
        counts = {
            WARM_START: corpus.documents,
            RL: corpus.rl_documents,
            GROUNDING: recipe.grounding.documents if recipe.grounding else 0,
            ABSTENTION: recipe.abstention.documents if recipe.abstention else 0,
            SETTLING: recipe.settling.documents if recipe.settling else 0,
        }
        return {name: count for name, count in counts.items() if count}

    def _labelled(self) -> list[str]:
        return [name for name in (WARM_START, GROUNDING) if name in self._num_documents()]

    def _extract_all(self) -> None:
        first = 0
        for name, num_documents in self._num_documents().items():
            self._extract(name, "train", num_documents, first_index=first)
            first = ShardReader(self.shards(name)).manifest.shards[-1].next_index
        documents = self.recipe.corpus.held_out_documents
        self._extract(HELD_OUT, "heldout", documents, positions=1)

    def _extract(
        self,
        name: str,
        split: Split,
        num_documents: int,
        *,
        positions: int | None = None,
        first_index: int = 0,
    ) -> None:
        corpus = self.recipe.corpus
        with count_progress(f"{name} activations", num_documents) as progress:
            made = extract_corpus(
                self.models.target(),
                Corpus(corpus.source),
                self.shards(name),
                split=split,
                num_documents=num_documents,
                positions_per_document=positions or corpus.positions_per_document,
                minimum_position=corpus.minimum_position,
                max_tokens=corpus.max_tokens,
                shard_rows=corpus.shard_rows,
                first_index=first_index,
                next_tokens=NEXT_TOKENS if self._is_by_rule else 0,
                progress=progress,
                writes=distributed.is_first(),
            )
        distributed.wait()
        if made.num_empty:
            self.console.print(f"{name}: {made.num_empty} rows without a text were passed over.")
        if made.num_refused:
            why = f"{name}: {made.num_refused} rows that the target cannot read were passed over."
            self.console.print(f"{why} The first: {made.refusals[0]}", markup=False)

    def _label_all(self) -> None:
        teacher = self._teacher()
        readers = {name: ShardReader(self.shards(name)) for name in self._labelled()}
        paid = paid_of(teacher)
        if paid is not None:
            tables = (rows for reader in readers.values() for _, rows in reader)
            places = [place for rows in tables for place in places_of(rows)]
            self.console.print(paid.announcement(places), markup=False, highlight=False)
        for name, reader in readers.items():
            bar = count_progress(f"{name} labels", len(reader))
            with distributed.first_alone(), bar as progress:
                write_labels(self.shards(name), teacher, self.labels(name), progress)

    def _teacher(self) -> Teacher:
        asked = self.recipe.teacher
        price = asked.price and Price(input=asked.price[0], output=asked.price[1])
        return teacher_named(
            asked.model,
            asked.cache or self.space.stage("labels") / CACHE_NAME,
            price=price,
            budget=asked.budget,
            batch=asked.batch,
            base_url=asked.base_url,
            concurrency=asked.concurrency,
            task=asked.task,
            shares=asked.shares,
        )

    # -- rows of later stages ----------------------------------------------------------------------
    def pairs(self) -> PairSet:
        return load_pairs(self.shards(WARM_START), self.labels(WARM_START))

    def rl_rows(self, *, grounded: bool) -> StoredRows:
        if self.recipe.corpus.rl_documents == 0:
            return self.pairs().origins
        return stored_vectors(ShardReader(self.shards(RL)))

    # -- after RL ----------------------------------------------------------------------------------
    def abstention_rows(self) -> StoredRows:
        return stored_vectors(ShardReader(self.shards(ABSTENTION)))

    def states_of(self, rows: pa.Table) -> list[State]:
        states_of = self.claims.known().states_of
        assert states_of is not None, "claims of a corpus are checked against its rows"
        return states_of(list(places_of(rows)))

    def settling_rows(self) -> StoredRows:
        settling = self.recipe.settling
        if settling is None or settling.documents == 0:
            return self.rl_rows(grounded=True)
        return stored_vectors(ShardReader(self.shards(SETTLING)))

    def held_out_rows(self) -> ActivationRows:
        """One position in each of some held-out documents."""
        return ActivationRows(*ShardReader(self.shards(HELD_OUT)).load())

    def held_out(self, config: RlConfig, mean_D: torch.Tensor) -> HeldOut:
        vectors_ND, rows = self.held_out_rows()
        checker, check = self.claims.checker, None
        if checker is not None and checker.states_of is not None:
            check = checking(checker.states_of(list(places_of(rows))), self.claims)
        return HeldOut(vectors_ND, check, mean_D, config.max_new_tokens)

    def policy_engine(self, local: LocalEngine) -> AbstractContextManager[PolicyEngine]:
        return policy_engine(self.recipe, self.models.basis.directory, local)

    @property
    def most_k3(self) -> float | None:
        return self.recipe.rl.most_k3

    # -- grounding ---------------------------------------------------------------------------------
    def grounding_stage(self) -> Stage:
        done = label_grounding.labels_directory(self) / "done.json"
        inputs = ("labels", *(["verbalizer"] if self.grounds_other_documents else []))
        return Stage("grounding", inputs, (done,), self._ground)

    def _ground(self) -> None:
        label_grounding.ground(self)

    @property
    def grounds_other_documents(self) -> bool:
        """Whether the plain pair's warm-started AV judges the labels of other documents."""
        grounding = self.recipe.grounding
        return grounding is not None and grounding.documents > 0

    @property
    def grounded_set(self) -> str:
        """The set of activations whose labels are grounded."""
        return GROUNDING if self.grounds_other_documents else WARM_START

    def grounded_pairs(self) -> PairSet:
        labels = label_grounding.labels_directory(self)
        return load_pairs(self.shards(self.grounded_set), labels)

    @property
    def grounded_start(self) -> tuple[Path | None, Path | None]:
        return warm_started(self, "") if self.grounds_other_documents else (None, None)

    @property
    def judge(self) -> Path:
        if self.grounds_other_documents:
            return warm_started(self, "")[0]
        return label_grounding.judge_directory(self, 0) / "model"

    # -- the result --------------------------------------------------------------------------------
    def provenance(self) -> dict[str, JsonValue]:
        return {
            "base_model": self.recipe.target.called,
            "teacher": self.recipe.teacher.called,
        }

    @property
    def description(self) -> str:
        asked = self.recipe.target
        return f"Reads {asked.called} after block {asked.layer}."

    @property
    def domain(self) -> str:
        return self.recipe.domain

    @property
    def span(self) -> ReadSpan:
        corpus = self.recipe.corpus
        return ReadSpan(minimum_position=corpus.minimum_position, max_tokens=corpus.max_tokens)

    def furnish(self, directory: Path) -> None:
        """Nothing lies beside the models of such a pair."""

    def published_pair(self, directory: Path) -> Pair:
        """The pair in memory, before adapters are merged; each process has its part of it."""
        rows = self.recipe.rl.vectors * self.recipe.rl.group
        warm = warm_started(self, "grounded-" if self.recipe.has_grounding else "")
        control = None
        if self.recipe.has_controls:
            path = self.space.stage("controls") / main_control(self) / "model"
            control = self.models.reconstructor(path, frozen=True).reconstruct
        return Pair(
            engine=self.models.engine(*final_pair(self), rows, frozen=True),
            target=self.models.target(),
            card=read_card(directory),
            mean_D=mean_vector(self.pairs().vectors),
            warm_start=self.models.engine(*warm, rows, frozen=True),
            control_ar=control,
        )

    @property
    def eval_set(self) -> EvalSet:
        corpus = self.recipe.corpus
        reader = TeacherReader(TextTeacher()) if self._is_by_rule else None
        return CorpusSet(
            Corpus(corpus.source), self.claims, corpus.minimum_position, corpus.max_tokens, reader
        )

    @property
    def max_new_tokens(self) -> int:
        return self.recipe.rl.max_new_tokens
