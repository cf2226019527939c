"""A recipe of a released model, from corpus to published pair; `pipeline` is the storyworld's.

    1-activations  2-labels  3-verbalizer  4-reconstructor  5-rl  nla (the pair)

and, with `[grounding]`, 2b-grounding: labels that keep to what the activations carry.

With `[lora]` the target, the pair, its frozen start and the rollouts share one base in memory, and
a stage's result is an adapter of a few megabytes; the published pair is merged. Without, both are
trained whole. A killed run goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from nlakit.card import MEAN_NAME, NlaCard, write_card
from nlakit.claims.grounding import ClaimJudge
from nlakit.claims.spans import SPANS
from nlakit.config import write_resolved, write_text_atomic
from nlakit.contract import (
    Extraction,
    NlaMeta,
    PromptTemplates,
    Role,
    Tokens,
    read_meta,
)
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.core.site import Site
from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import extract_corpus
from nlakit.data.datasets import PairSet, load_pairs
from nlakit.data.extraction import ActivationRows
from nlakit.data.labels import Teacher, places_of, write_labels
from nlakit.data.shards import ShardReader
from nlakit.engines.local import LocalEngine
from nlakit.errors import ConfigError
from nlakit.evals.checkpoint import CheckpointReport, evaluate_checkpoint
from nlakit.models.adapters import adapted, load_adapter
from nlakit.models.families import backbone_of, truncated
from nlakit.models.hub import locate
from nlakit.models.io import load_backbone, load_head, load_sharded, load_tokenizer
from nlakit.models.quantized import quantize
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair
from nlakit.split import Split
from nlakit.teachers.cost import Price
from nlakit.teachers.named import CACHE_NAME, teacher_named
from nlakit.teachers.remote import RemoteTeacher
from nlakit.worlds.storyworld.publication import REPORT_NAME
from nlakit.worlds.storyworld.workspace import injection_scale, mean_vector

from . import distributed
from .checkpoint_grounding import LABELS_NAME, ground_labels, judge_directory
from .config import GroundedRlConfig
from .evaluation import HeldOut
from .model_recipe import ModelRecipe, PairTraining
from .prompts import AR_TEMPLATE, CHECKPOINT_AV_TEMPLATE, checkpoint_tokens
from .rl import TruthTerms, train_rl
from .rollouts import check_rollouts, policy_engine
from .run import RunDirectory, count_bar, finished, read_json
from .sft import train_reconstructor, train_verbalizer

STAGES = ("activations", "labels", "verbalizer", "reconstructor", "rl")
GROUNDING, GROUNDING_DIRECTORY = "grounding", "2b-grounding"
"""Made after the labels where the recipe has it; the others' numbers are the same without."""
WARM_START, RL, HELD_OUT = "warm-start", "rl", "held-out"
AV_SEED, AR_SEED = 31, 32


def run_checkpoint(recipe: ModelRecipe, output: Path, only: str | None = None) -> Path:
    """Make every stage that is not done yet; returns the directory of the pair.

    Args:
        output: where the stages and the pair go.
        only: make this stage, and what it needs that is not there, and stop; returns its directory.

    Raises:
        ConfigError: there is no such stage, the recipe asks for another number of devices, or its
            marker or checkpoint cannot be an AV's.
        MissingExtraError: its rollouts are vLLM's, which is not installed.
        InputError: the corpus cannot be read, or is too small.
        ResumeError: `output` holds a run of another recipe.
    """
    _check_devices(recipe)
    check_rollouts(recipe)
    making = CheckpointRun(recipe, output)
    # What it says is needed after the labels, and can be wrong before they are paid for.
    _ = making.tokens
    grounding = {} if recipe.grounding is None else {GROUNDING: lambda: making.lessons}
    stages: dict[str, Callable[[], object]] = {
        "activations": lambda: (making.warm_start_rows, making.rl_vectors, making.held_out_rows),
        "labels": lambda: making.pairs,
        **grounding,
        "verbalizer": making.warm_start_verbalizer,
        "reconstructor": making.warm_start_reconstructor,
        "rl": making.joint_rl,
    }
    if only is not None and only not in stages:
        raise ConfigError(f"There is no stage {only!r}. The stages are {', '.join(stages)}.")
    for name, stage in stages.items():
        if only in (None, name):
            making.console.rule(f"{recipe.name}: {name}")
            stage()
    if only is not None:
        return making.stage(only)
    is_published = (making.nla / REPORT_NAME).exists()
    distributed.wait()
    if not is_published:
        making.console.rule(f"{recipe.name}: report")
        making.publish()
    return making.nla


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


class CheckpointRun:
    """One run: its directories, the base in memory, and the stages.

    Attributes:
        dtype: of frozen models; weights that are trained are float32.
    """

    def __init__(self, recipe: ModelRecipe, root: Path):
        self.recipe, self.root = recipe, root
        self.console = Console(stderr=True, quiet=not distributed.is_first())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32

    def stage(self, name: str) -> Path:
        """The directory of a stage."""
        if name == GROUNDING:
            return self.root / GROUNDING_DIRECTORY
        return self.root / f"{STAGES.index(name) + 1}-{name}"

    @property
    def nla(self) -> Path:
        """The directory of the published pair."""
        return self.root / "nla"

    @cached_property
    def base(self) -> Path:
        """The checkpoint's directory."""
        return locate(self.recipe.target.checkpoint)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's."""
        return load_tokenizer(self.base)

    @cached_property
    def tokens(self) -> Tokens:
        """The marker and its neighbours in the AV's prompt. Raises as `checkpoint_tokens`."""
        asked = self.recipe.target
        return checkpoint_tokens(self.tokenizer, asked.marker, asked.checkpoint, self.recipe.name)

    @cached_property
    def target(self) -> Target:
        """The model under study; with adapters, the base of everything else as well."""
        return Target(self._load(self.base), self.tokenizer, self.site)

    @property
    def site(self) -> Site:
        """Where the target is read."""
        return Site(self.recipe.target.layer)

    def _load(
        self, directory: Path, num_blocks: int | None = None, *, trained: bool = False
    ) -> Any:
        """A model with weights of its own, on the devices; of so many blocks, and then headless."""
        dtype, headless = torch.float32 if trained else self.dtype, num_blocks is not None
        if self.recipe.devices.parallel == "fsdp":
            return load_sharded(
                directory, num_blocks, dtype,
                device=self.device, headless=headless, trained=trained,
            )  # fmt: skip
        model = load_backbone(directory, num_blocks, dtype, headless=headless)
        bits = self.recipe.lora and self.recipe.lora.base_bits
        return quantize(model, bits, self.device) if bits else model.to(self.device)

    # -- data --------------------------------------------------------------------------------------
    @cached_property
    def warm_start_rows(self) -> ShardReader:
        """Activations that the teacher labels."""
        return self._extract(WARM_START, "train", self.recipe.corpus.documents)

    @cached_property
    def rl_vectors(self) -> Tensor:
        """N x D: activations of other documents, for RL; of the same ones where none are asked."""
        if self.recipe.corpus.rl_documents == 0:
            return self.pairs.vectors
        first = self.warm_start_rows.manifest.shards[-1].next_index
        found = self._extract(RL, "train", self.recipe.corpus.rl_documents, first_index=first)
        return found.load()[0]

    @cached_property
    def held_out_rows(self) -> ActivationRows:
        """One place in each of some held-out documents."""
        documents = self.recipe.corpus.held_out_documents
        return ActivationRows(*self._extract(HELD_OUT, "heldout", documents, 1).load())

    def _extract(
        self,
        name: str,
        split: Split,
        num_documents: int,
        positions: int | None = None,
        first_index: int = 0,
    ) -> ShardReader:
        corpus, directory = self.recipe.corpus, self.stage("activations") / name
        # Loaded before one process goes alone: all take part in sharing a base out.
        target = self.target
        bar = count_bar(f"{name} activations", num_documents)
        with distributed.first_alone(), bar as progress:
            made = extract_corpus(
                target,
                Corpus(corpus.source),
                directory,
                split=split,
                num_documents=num_documents,
                positions_per_document=positions or corpus.positions_per_document,
                minimum_position=corpus.minimum_position,
                max_tokens=corpus.max_tokens,
                shard_rows=corpus.shard_rows,
                first_index=first_index,
                progress=progress,
            )
        if made.num_empty:
            self.console.print(f"{name}: {made.num_empty} rows without a text were passed over.")
        if made.num_refused:
            why = f"{name}: {made.num_refused} rows that the target cannot read were passed over."
            self.console.print(f"{why} The first: {made.refusals[0]}", markup=False)
        return ShardReader(directory)

    @cached_property
    def pairs(self) -> PairSet:
        """The warm start's activations with their labels; refused ones are left out."""
        reader, directory = self.warm_start_rows, self.stage("labels")
        teacher = self._named_teacher(self.recipe.teacher.cache or directory / CACHE_NAME)
        if isinstance(teacher, RemoteTeacher):
            places = [place for _, rows in reader for place in places_of(rows)]
            self.console.print(teacher.announcement(places), markup=False, highlight=False)
        shards = self.stage("activations") / WARM_START
        with distributed.first_alone(), count_bar("labels", len(reader)) as progress:
            write_labels(shards, teacher, directory, progress)
        return load_pairs(shards, directory)

    @cached_property
    def lessons(self) -> PairSet:
        """What both warm starts learn from: the pairs, grounded where the recipe asks for it."""
        pairs = self.pairs
        if self.recipe.grounding is None:
            return pairs
        shards = self.stage("activations") / WARM_START
        return ground_labels(
            self.recipe, shards, self.stage("labels"), self.stage(GROUNDING), self.verbalizer
        )

    def _named_teacher(self, cache: Path) -> Teacher:
        asked = self.recipe.teacher
        price = asked.price and Price(input=asked.price[0], output=asked.price[1])
        return teacher_named(
            asked.model,
            cache,
            price=price,
            budget=asked.budget,
            batch=asked.batch,
            base_url=asked.base_url,
            concurrency=asked.concurrency,
        )

    @cached_property
    def training(self) -> PairTraining:
        """The settings of the stages that learn."""
        return self.recipe.training(len(self.lessons))

    @cached_property
    def mean_D(self) -> Tensor:
        """What an FVE of zero predicts."""
        return mean_vector(self.pairs.vectors)

    # -- models ------------------------------------------------------------------------------------
    def meta(self, role: Role) -> NlaMeta:
        """The contract of a new one of the pair."""
        asked = self.recipe.target
        scale = asked.injection_scale or injection_scale(self.pairs.vectors[:20_000])
        return NlaMeta(
            role=role,
            d_model=self.target.d_model,
            extraction=Extraction(
                base_model=asked.checkpoint, layer_index=asked.layer, injection_scale=scale
            ),
            tokens=self.tokens,
            prompt_templates=PromptTemplates(av=CHECKPOINT_AV_TEMPLATE, ar=AR_TEMPLATE),
        )

    def verbalizer(self, directory: Path | None = None, *, frozen: bool = False) -> Verbalizer:
        """A verbalizer to train (or a frozen one): untrained, or as a stage left it."""
        meta = self.meta("av") if directory is None else read_meta(directory)
        if self.recipe.lora is not None:
            model = self._view(self.target.model, AV_SEED, directory, frozen)
        else:
            model = self._load(directory or self.base, trained=not frozen)
        made = Verbalizer(model, self.target.tokenizer, meta)
        made.recompute = self.recipe.devices.gradient_checkpointing
        return made

    def reconstructor(
        self, directory: Path | None = None, *, frozen: bool = False
    ) -> Reconstructor:
        """The same for a reconstructor, of the first blocks up to the site."""
        meta = self.meta("ar") if directory is None else read_meta(directory)
        num_blocks = self.site.num_blocks
        if self.recipe.lora is not None:
            cut = truncated(backbone_of(self.target.model), num_blocks)
            backbone = self._view(cut, AR_SEED, directory, frozen)
        else:
            backbone = self._load(directory or self.base, num_blocks, trained=not frozen)
        made = Reconstructor(backbone, self._head(directory), self.target.tokenizer, meta)
        made.recompute = self.recipe.devices.gradient_checkpointing
        return made

    def _view(
        self, model: nn.Module, place: int, directory: Path | None, frozen: bool
    ) -> nn.Module:
        lora = self.recipe.lora
        assert lora is not None, "only adapters have views"
        seed = self.recipe.seed * 100 + place
        view = adapted(model, lora.rank, lora.alpha, seed, self.recipe.target.checkpoint)
        return view if directory is None else load_adapter(view, directory, frozen=frozen)

    def _head(self, directory: Path | None) -> nn.Linear:
        width = self.target.d_model
        if directory is not None:
            return load_head(directory, width).to(self.device)
        head = nn.Linear(width, width, bias=False)
        nn.init.eye_(head.weight)
        return head.to(self.device)

    # -- stages ------------------------------------------------------------------------------------
    def warm_start_verbalizer(self) -> None:
        """The AV learns to write the labels."""
        training = self.training
        run = RunDirectory(self.stage("verbalizer"), training.stage("verbalizer"))
        train_verbalizer(
            self.verbalizer(), self.lessons, training.verbalizer, training.settings, run
        )

    def warm_start_reconstructor(self) -> None:
        """The AR learns to rebuild activations from the labels."""
        training = self.training
        train_reconstructor(
            self.reconstructor(),
            self.lessons,
            self.mean_D,
            training.reconstructor,
            training.settings,
            RunDirectory(self.stage("reconstructor"), training.stage("reconstructor")),
        )

    def joint_rl(self) -> None:
        """Both go on from the warm start; the same adapters, since fresh ones would lose it."""
        training, (av, ar) = self.training, self._warm_started()
        held_out_ND, longest = self.held_out_rows.vectors_ND, self.recipe.rl.max_new_tokens
        with policy_engine(self.recipe, self.base, self.engine(av, ar)) as engine:
            train_rl(
                engine,
                self.verbalizer(av, frozen=True),
                self.reconstructor(ar, frozen=True),
                self.rl_vectors,
                HeldOut(held_out_ND, None, self.mean_D, longest),
                training.rl,
                training.settings,
                RunDirectory(self.stage("rl"), training.stage("verbalizer", "reconstructor", "rl")),
                self._truth_terms(),
                most_k3=self.recipe.rl.most_k3,
            )

    def _truth_terms(self) -> TruthTerms | None:
        """The judge that stays on in RL: one of the two, as all documents of RL are new to both."""
        config = self.training.rl
        if not isinstance(config, GroundedRlConfig):
            return None
        model = finished(judge_directory(self.stage(GROUNDING), 0)) / "model"
        judge = ClaimJudge(
            self.verbalizer(model, frozen=True),
            SPANS,
            self.recipe.precision,
            self.recipe.rl.micro_batch,
        )
        return TruthTerms(config, judge, self.target)

    def engine(self, av: Path, ar: Path, *, frozen: bool = False) -> LocalEngine:
        """Runs a pair that some stage left; its rollouts are written side by side."""
        rows = self.recipe.rl.vectors * self.recipe.rl.group
        pair = self.verbalizer(av, frozen=frozen), self.reconstructor(ar, frozen=frozen)
        return LocalEngine(self.target, *pair, rows)

    def _warm_started(self) -> tuple[Path, Path]:
        av, ar = (finished(self.stage(name)) / "model" for name in ("verbalizer", "reconstructor"))
        return av, ar

    # -- the result --------------------------------------------------------------------------------
    def publish(self) -> None:
        """Assemble the pair's directory, merged and in bfloat16, with mean, card, logs and report.

        The report is of the pair in memory, before adapters are merged. All processes have their
        part of that pair; the first one measures and writes.
        """
        pair = self._pair()
        if distributed.is_first():
            self._assemble(pair)
        distributed.wait()

    def _assemble(self, pair: Pair) -> None:
        temporary, best = self.root / "nla.new", self.stage("rl") / "best"
        shutil.rmtree(temporary, ignore_errors=True)
        # From the files: the base in memory may be in pieces.
        whole = Target.load(self.base, self.recipe.target.layer, torch.bfloat16)
        whole.save(temporary / "target")
        Verbalizer.load(best / "av", self.dtype, self.base).save(temporary / "av", torch.bfloat16)
        Reconstructor.load(best / "ar", self.dtype, self.base).save(
            temporary / "ar", torch.bfloat16
        )
        save_file({"mean": self.mean_D}, temporary / MEAN_NAME)
        report = evaluate_checkpoint(pair, self.held_out_rows, self.recipe.rl.max_new_tokens)
        write_card(temporary, self._card(report))
        self._copy_logs(temporary / "run")
        write_text_atomic(temporary / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
        shutil.rmtree(self.nla, ignore_errors=True)
        temporary.rename(self.nla)

    def _pair(self) -> Pair:
        """The chosen pair, with its warm start beside it."""
        best = self.stage("rl") / "best"
        card = NlaCard(
            name=self.recipe.name,
            layer=self.recipe.target.layer,
            d_model=self.target.d_model,
            variance=self._variance(),
            num_training_rows=len(self.lessons),
        )
        return Pair(
            self.engine(best / "av", best / "ar", frozen=True),
            self.target,
            card,
            self.mean_D,
            warm_start=self.engine(*self._warm_started(), frozen=True),
        )

    def _card(self, report: CheckpointReport) -> NlaCard:
        recipe = self.recipe
        best = read_json(self.stage("rl") / "best" / "best.json")
        return NlaCard(
            name=recipe.name,
            description=f"Reads {recipe.target.checkpoint} after block {recipe.target.layer}.",
            layer=recipe.target.layer,
            d_model=self.target.d_model,
            variance=self._variance(),
            num_training_rows=len(self.lessons),
            floors=report.floors.model_dump(),
            fve=report.fve,
            provenance={
                "base_model": recipe.target.checkpoint,
                "teacher": recipe.teacher.model,
                "recipe": recipe.name,
                "seed": recipe.seed,
                **best,
            },
        )

    def _variance(self) -> float:
        unit_ND = to_norm(self.pairs.vectors, resolve_scale("sqrt_d_model", self.target.d_model))
        return float((unit_ND - self.mean_D).square().mean())

    def _copy_logs(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        write_resolved(self.recipe, directory / "recipe.toml")
        for name in STAGES[2:]:
            shutil.copy(self.stage(name) / "metrics.jsonl", directory / f"{name}.jsonl")
        if self.recipe.grounding is not None:
            counts = self.stage(GROUNDING) / LABELS_NAME / "done.json"
            shutil.copy(counts, directory / f"{GROUNDING}.json")
