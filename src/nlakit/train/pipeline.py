"""A recipe from nothing to a published pair: each stage in its own directory, skipped when done.

    1-target  2-activations  3-verbalizer  4-reconstructor  5-rl  nla (the pair)

Stages talk through files only, so a killed pipeline goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from nlakit.card import MEAN_NAME, NlaCard, read_card, write_card
from nlakit.config import parse_config, write_resolved
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.data.datasets import PairSet, load_pairs
from nlakit.data.documents import states_of
from nlakit.data.extraction import extract_storyworld, sample_storyworld
from nlakit.data.labels import write_labels
from nlakit.engines.local import LocalEngine
from nlakit.errors import ConfigError, ResumeError
from nlakit.evals.report import read_metrics, write_report
from nlakit.evals.storyworld import evaluate
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.teachers.storyworld import StoryworldTeacher

from .evaluation import HeldOut
from .prompts import AR_TEMPLATE, AV_TEMPLATE
from .recipe import Recipe
from .rl import train_rl
from .run import read_json
from .sft import train_reconstructor, train_verbalizer
from .target import train_target
from .tokenizer import MARKER

EXTRACTION_SEED, HELD_OUT_SEED = 4, 5
STAGES = ("target", "activations", "verbalizer", "reconstructor", "rl")
PERCENTILE = 0.75
REPORT_NAME = "report.json"  # written last


@dataclass(frozen=True)
class Workspace:
    """Where the stages of one run keep their files."""

    root: Path

    def stage(self, name: str) -> Path:
        return self.root / f"{STAGES.index(name) + 1}-{name}"

    @property
    def nla(self) -> Path:
        return self.root / "nla"


def run(recipe_path: Path, overrides: Sequence[str], output: Path, only: str | None = None) -> Path:
    """Run every stage of a recipe that is not done yet; returns the directory of the pair.

    Args:
        recipe_path: a TOML file; `overrides` are `key.sub=value`.
        output: where the stages and the pair go; a killed run is continued there.
        only: make this stage (and what it needs) and stop; its directory is returned.

    Raises:
        ConfigError: the recipe has a typo or a bad value, or there is no such stage.
        ResumeError: `output` holds a run of another recipe.
    """
    recipe = parse_config(Recipe, recipe_path, overrides)
    space = Workspace(output)
    if only is not None and only not in STAGES:
        raise ConfigError(f"There is no stage {only!r}. The stages are {', '.join(STAGES)}.")
    stages: dict[str, Callable[[Recipe, Workspace], object]] = {
        "target": make_target,
        "activations": make_pairs,
        "verbalizer": warm_start_verbalizer,
        "reconstructor": warm_start_reconstructor,
        "rl": joint_rl,
    }
    for name, stage in stages.items():
        if only is None or name == only:
            Console(stderr=True).rule(f"{recipe.name}: {name}")
            stage(recipe, space)
    if only is not None:
        return space.stage(only)
    if not (space.nla / REPORT_NAME).exists():
        Console(stderr=True).rule(f"{recipe.name}: report")
        publish(recipe, space)
        write_pair_report(recipe, space)
    return space.nla


def make_target(recipe: Recipe, space: Workspace) -> Target:
    return train_target(recipe, space.stage("target"))


def make_pairs(recipe: Recipe, space: Workspace) -> PairSet:
    """Activations of training documents and the teacher's label for each."""
    directory, config = space.stage("activations"), recipe.extraction
    labels = directory / "labels"
    extract_storyworld(
        make_target(recipe, space),
        directory / "shards",
        seed=recipe.seed * 10 + EXTRACTION_SEED,
        split="train",
        num_documents=config.documents,
        positions_per_document=config.positions_per_document,
        shard_rows=config.shard_rows,
    )
    write_labels(directory / "shards", StoryworldTeacher(), labels)
    return load_pairs(directory / "shards", labels)


def warm_start_verbalizer(recipe: Recipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    meta = pair_meta(recipe, target, pairs.vectors, "av")
    verbalizer = Verbalizer.from_target(target.model, target.tokenizer, meta)
    train_verbalizer(recipe, verbalizer, pairs, space.stage("verbalizer"))


def warm_start_reconstructor(recipe: Recipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, meta)
    train_reconstructor(
        recipe, reconstructor, pairs, mean_vector(pairs.vectors), space.stage("reconstructor")
    )


def joint_rl(recipe: Recipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    av_dir, ar_dir = (finished(space, name) / "model" for name in ("verbalizer", "reconstructor"))
    rows = recipe.rl.vectors * recipe.rl.group
    engine = LocalEngine(target, Verbalizer.load(av_dir), Reconstructor.load(ar_dir), rows)
    train_rl(
        recipe,
        engine,
        Verbalizer.load(av_dir),
        Reconstructor.load(ar_dir),
        pairs.vectors,
        held_out_rows(recipe, target, mean_vector(pairs.vectors)),
        space.stage("rl"),
    )


def finished(space: Workspace, name: str) -> Path:
    """The directory of a stage that must be done before another can start."""
    directory = space.stage(name)
    if not (directory / "done.json").exists():
        raise ResumeError(f"{directory} is not finished: make the stage {name!r} first.")
    return directory


# -- what the stages share -----------------------------------------------------------------------
def mean_vector(vectors_ND: Tensor) -> Tensor:
    """The plain mean of the normalised vectors: what an FVE of zero predicts."""
    return (
        to_norm(vectors_ND.double(), resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
        .mean(0)
        .float()
    )


def injection_scale(vectors_ND: Tensor) -> float:
    """A round number (two digits) near the 75th percentile of activation norms (method.md §1)."""
    return float(f"{vectors_ND.norm(dim=1).quantile(PERCENTILE):.2g}")


def pair_meta(recipe: Recipe, target: Target, vectors_ND: Tensor, role: Role) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=target.d_model,
        extraction=Extraction(
            base_model=f"nlakit/{recipe.name}",
            layer_index=recipe.extraction.layer,
            injection_scale=injection_scale(vectors_ND[:20_000]),
        ),
        tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def held_out_rows(recipe: Recipe, target: Target, mean_D: Tensor) -> HeldOut:
    """One place in each of the held-out documents that RL's figures are taken on."""
    seed = recipe.seed * 10 + HELD_OUT_SEED
    vectors, rows = sample_storyworld(target, seed, "heldout", recipe.rl.evaluation_documents)
    return HeldOut(vectors, states_of(rows), mean_D)


# -- the result ----------------------------------------------------------------------------------
def publish(recipe: Recipe, space: Workspace) -> None:
    """Assemble the pair's directory: bf16 weights, the warm start beside them, mean and card."""
    temporary = space.root / "nla.new"
    shutil.rmtree(temporary, ignore_errors=True)
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    best = space.stage("rl") / "best"
    target.save(temporary / "target", torch.bfloat16)
    for name, av, ar in (
        ("", best / "av", best / "ar"),
        ("warm_start", space.stage("verbalizer") / "model", space.stage("reconstructor") / "model"),
    ):
        Verbalizer.load(av).save(temporary / name / "av", torch.bfloat16)
        Reconstructor.load(ar).save(temporary / name / "ar", torch.bfloat16)
    mean_D = mean_vector(pairs.vectors)
    save_file({"mean": mean_D}, temporary / MEAN_NAME)
    write_card(temporary, _card(recipe, space, pairs.vectors, mean_D))
    copy_run(recipe, space, temporary / "run")
    shutil.rmtree(space.nla, ignore_errors=True)
    temporary.rename(space.nla)


def write_pair_report(recipe: Recipe, space: Workspace) -> None:
    """Measure the published pair, put its figures on its card, and lay the report beside it."""
    report = evaluate(space.nla, recipe.report.documents, recipe.report.seed)
    card = read_card(space.nla)
    measured = {"fve": report.fve, "floors": report.floors.model_dump()}
    write_card(space.nla, card.model_copy(update=measured))
    write_report(report, space.nla, read_metrics(space.nla / "run" / "rl.jsonl"))


def _card(recipe: Recipe, space: Workspace, vectors_ND: Tensor, mean_D: Tensor) -> NlaCard:
    unit_ND = to_norm(vectors_ND, resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
    best = read_json(space.stage("rl") / "best" / "best.json")
    return NlaCard(
        name=recipe.name,
        description="Storyworld NLA: target, verbalizer and reconstructor trained from scratch.",
        layer=recipe.extraction.layer,
        d_model=vectors_ND.shape[1],
        variance=float((unit_ND - mean_D).square().mean()),
        num_training_rows=len(vectors_ND),
        provenance={"recipe": recipe.name, "seed": recipe.seed, **best},
    )


def copy_run(recipe: Recipe, space: Workspace, directory: Path) -> None:
    """Keep what a reader needs to see how the pair was made: the recipe and every stage's log."""
    directory.mkdir(parents=True)
    write_resolved(recipe, directory / "recipe.toml")
    for name in STAGES:
        log = space.stage(name) / "metrics.jsonl"
        if log.exists():
            shutil.copy(log, directory / f"{name}.jsonl")
