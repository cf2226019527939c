"""A recipe from nothing to a published pair: each stage in its own directory, skipped when done.

    1-target  2-activations  3-verbalizer  4-reconstructor  5-rl  nla (the pair)

and, where the recipe has a `[grounding]`, a second pair that keeps to what it can read, with the
first one's stages as rows to compare it with:

    6-grounding  7-grounded-verbalizer  8-grounded-reconstructor  9-grounded-rl
    10-settling  11-controls

Stages talk through files only, so a killed pipeline goes on where it stopped.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from nlakit.card import MEAN_NAME, NlaCard, read_card, write_card
from nlakit.config import parse_config, write_resolved
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.data.datasets import PairSet, join, load_pairs
from nlakit.data.documents import states_of
from nlakit.data.extraction import extract_storyworld, sample_storyworld
from nlakit.data.labels import write_labels
from nlakit.data.shards import ShardReader
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import ConfigError, InputError
from nlakit.evals import probe_store
from nlakit.evals.calibrate import CALIBRATION_DOCUMENTS, fit_confidence
from nlakit.evals.pair import CONTROL_AR, load_pair
from nlakit.evals.report import read_metrics, write_report
from nlakit.evals.storyworld import evaluate
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.registry import ROWS, WARM_START
from nlakit.storyworld.rewording import reword
from nlakit.teachers.storyworld import StoryworldTeacher

from .evaluation import EVALUATION_TOKENS, HeldOut
from .grounding import ClaimJudge, full_labels, ground, judge_curves, write_grounded
from .prompts import AR_TEMPLATE, AV_TEMPLATE
from .recipe import GroundedRlConfig, GroundingConfig, Recipe, RlConfig, SftConfig
from .rl import STAGE_PARTS as PLAIN_RL_PARTS
from .rl import TruthTerms, train_rl
from .run import RunDirectory, finished, read_json, write_json
from .sft import train_reconstructor, train_verbalizer
from .target import train_target
from .tokenizer import MARKER

EXTRACTION_SEED, HELD_OUT_SEED, GROUNDING_SEED, EXTRA_SEED, JUDGE_SEED = 4, 5, 7, 8, 9
PLAIN_STAGES = ("target", "activations", "verbalizer", "reconstructor", "rl")
GROUNDED_STAGES = (
    "grounding", "grounded-verbalizer", "grounded-reconstructor", "grounded-rl", "settling",
    "controls",
)  # fmt: skip
STAGES = (*PLAIN_STAGES, *GROUNDED_STAGES)
GROUNDED_PARTS = ("target", "extraction", "verbalizer", "reconstructor", "grounding")
GROUNDED_RL_PARTS = (*GROUNDED_PARTS, "grounded_rl")
PERCENTILE = 0.75
CURVES_NAME, EXPLANATIONS_NAME = "curves.json", "explanations.json"
PLAIN_WARM_START, PLAIN_RL = (f"{ROWS}/{name}" for name in ("plain-warm-start", "plain-rl"))
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
    if recipe.grounding is not None:
        stages |= {
            "grounding": make_grounded_pairs,
            "grounded-verbalizer": ground_verbalizer,
            "grounded-reconstructor": ground_reconstructor,
            "grounded-rl": grounded_rl,
            "settling": settle_reconstructor,
            "controls": train_controls,
        }
    elif only in GROUNDED_STAGES:
        raise ConfigError(f"{recipe_path} has no [grounding], so there is no stage {only!r}.")
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
    av_dir, ar_dir = (
        finished(space.stage(name)) / "model" for name in ("verbalizer", "reconstructor")
    )
    rows = recipe.rl.vectors * recipe.rl.group
    engine = LocalEngine(target, Verbalizer.load(av_dir), Reconstructor.load(ar_dir), rows)
    train_rl(
        recipe,
        engine,
        Verbalizer.load(av_dir),
        Reconstructor.load(ar_dir),
        pairs.vectors,
        held_out_rows(recipe, recipe.rl, target, mean_vector(pairs.vectors)),
        space.stage("rl"),
    )


# -- the grounded pair -----------------------------------------------------------------------------
def grounding_of(recipe: Recipe) -> GroundingConfig:
    assert recipe.grounding is not None, "the stages of a recipe without one are never made"
    return recipe.grounding


def grounded_rl_of(recipe: Recipe) -> GroundedRlConfig:
    assert recipe.grounded_rl is not None, "a recipe has both parts or neither"
    return recipe.grounded_rl


def make_grounded_pairs(recipe: Recipe, space: Workspace) -> PairSet:
    """Fresh activations, and labels of them without what a judge that never saw them can't read."""
    config, directory = grounding_of(recipe), space.stage("grounding")
    sets = [_GroundedSet(directory, config.documents, GROUNDING_SEED)]
    if config.extra_documents:
        # First, since the last rows of a set are the ones that training is watched on.
        extra = _GroundedSet(directory / "extra", config.extra_documents, EXTRA_SEED, config.about)
        sets.insert(0, extra)
    run = RunDirectory(directory, recipe.stage(*GROUNDED_PARTS))
    if run.done is None:
        judge = ClaimJudge(train_judge(recipe, space), recipe.precision)
        measure_judge(recipe, space, make_target(recipe, space), judge)
        kept, dropped = _ground(recipe, space, judge, sets)
        run.finish({"kept": dict(kept), "dropped": dict(dropped)})
    return join(*(load_pairs(each.shards, each.labels) for each in sets))


@dataclass(frozen=True)
class _GroundedSet:
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


def _ground(
    recipe: Recipe, space: Workspace, judge: ClaimJudge, sets: Sequence[_GroundedSet]
) -> tuple[Counter[str], Counter[str]]:
    """Extract and ground each set; returns the claims kept and dropped, counted by kind."""
    config = grounding_of(recipe)
    kept, dropped = Counter[str](), Counter[str]()
    for each in sets:
        extract_for_grounding(recipe, space, each.shards, each.documents, each.seed, each.about)
        reader = ShardReader(each.shards)
        vectors, rows = reader.load()
        grounded = ground(judge, vectors, states_of(rows), config.threshold, recipe.seed)
        write_grounded(each.labels, grounded, reader.manifest.config_hash, config.threshold)
        kept.update(kind for label in grounded for kind, _ in label.label.claims)
        dropped.update(kind for label in grounded for kind in label.dropped)
    return kept, dropped


def extract_for_grounding(
    recipe: Recipe,
    space: Workspace,
    shards: Path,
    documents: int,
    seed: int,
    about: tuple[str, ...],
) -> None:
    config = grounding_of(recipe)
    extract_storyworld(
        make_target(recipe, space),
        shards,
        seed=recipe.seed * 10 + seed,
        split="train",
        num_documents=documents,
        positions_per_document=config.positions_per_document,
        shard_rows=documents * config.positions_per_document,
        about=about,
    )


def make_lessons(recipe: Recipe, space: Workspace) -> PairSet:
    """What the judge and RL learn from: activations of rare facts, then the plain stages' ones."""
    config, pairs = grounding_of(recipe), make_pairs(recipe, space)
    shards = space.stage("grounding") / "judge-extra"
    if not config.extra_documents:
        return pairs
    extract_for_grounding(recipe, space, shards, config.extra_documents, JUDGE_SEED, config.about)
    vectors, rows = ShardReader(shards).load()
    return join(PairSet(vectors, [""] * len(vectors), rows), pairs)


def train_judge(recipe: Recipe, space: Workspace) -> Verbalizer:
    """The warm-started AV, taught on by full labels that quote as a grounded label does."""
    config, directory = grounding_of(recipe), space.stage("grounding") / "judge"
    if not (directory / "done.json").exists():
        lessons = make_lessons(recipe, space)
        full = replace(lessons, explanations=full_labels(states_of(lessons.rows), recipe.seed))
        start = Verbalizer.load(finished(space.stage("verbalizer")) / "model")
        taught = recipe.model_copy(update={"verbalizer": config.judge})
        train_verbalizer(taught, start, full, directory, GROUNDED_PARTS)
    return Verbalizer.load(directory / "model")


def measure_judge(recipe: Recipe, space: Workspace, target: Target, judge: ClaimJudge) -> None:
    """Write `curves.json`: what the judge's probabilities are worth on its own explanations."""
    vectors, rows = sample_storyworld(
        target, recipe.seed * 10 + HELD_OUT_SEED, "heldout", grounding_of(recipe).curve_rows
    )
    reconstructor = Reconstructor.load(finished(space.stage("reconstructor")) / "model")
    engine = LocalEngine(target, judge.verbalizer, reconstructor)
    sampling = Sampling(temperature=1.0, max_new_tokens=EVALUATION_TOKENS, seed=recipe.seed)
    texts = [group[0].text for group in engine.verbalize(vectors, sampling)]
    curves = judge_curves(judge, vectors, texts, states_of(rows), recipe.seed)
    write_json(
        space.stage("grounding") / CURVES_NAME, {"curves": [each.model_dump() for each in curves]}
    )


def ground_verbalizer(recipe: Recipe, space: Workspace) -> None:
    pairs = make_grounded_pairs(recipe, space)
    judge = Verbalizer.load(space.stage("grounding") / "judge" / "model")
    taught = recipe.model_copy(update={"verbalizer": grounding_of(recipe).verbalizer})
    train_verbalizer(taught, judge, pairs, space.stage("grounded-verbalizer"), GROUNDED_PARTS)


def ground_reconstructor(recipe: Recipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_grounded_pairs(recipe, space)
    mean_D = mean_vector(make_pairs(recipe, space).vectors)
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, meta)
    taught = recipe.model_copy(update={"reconstructor": grounding_of(recipe).reconstructor})
    directory = space.stage("grounded-reconstructor")
    train_reconstructor(taught, reconstructor, pairs, mean_D, directory, GROUNDED_PARTS)


def grounded_rl(recipe: Recipe, space: Workspace) -> None:
    config = grounded_rl_of(recipe)
    target, mean_D = make_target(recipe, space), mean_vector(make_pairs(recipe, space).vectors)
    av_dir, ar_dir = (
        finished(space.stage(name)) / "model"
        for name in ("grounded-verbalizer", "grounded-reconstructor")
    )
    judge = ClaimJudge(
        Verbalizer.load(space.stage("grounding") / "judge" / "model"), recipe.precision
    )
    rows = config.vectors * config.group
    engine = LocalEngine(target, Verbalizer.load(av_dir), Reconstructor.load(ar_dir), rows)
    train_rl(
        recipe.model_copy(update={"rl": config}),
        engine,
        Verbalizer.load(av_dir),
        Reconstructor.load(ar_dir),
        make_lessons(recipe, space).vectors,
        held_out_rows(recipe, config, target, mean_D),
        space.stage("grounded-rl"),
        TruthTerms(config, judge, target),
        GROUNDED_RL_PARTS,
    )


def settle_reconstructor(recipe: Recipe, space: Workspace) -> None:
    """Let the AR learn on from sampled explanations of the AV as RL left it.

    RL pays for a rollout, a judgement and two policies with each of its steps; the AR, which has
    the most left to learn, needs the rollout alone.
    """
    config, directory = grounded_rl_of(recipe), space.stage("settling")
    if config.settling is None:
        return
    lessons, mean_D = make_lessons(recipe, space), mean_vector(make_pairs(recipe, space).vectors)
    rows = random.Random(recipe.seed).sample(range(len(lessons)), config.settling.vectors)
    vectors_ND = lessons.vectors[rows]
    best = space.stage("grounded-rl") / "best"
    reconstructor = Reconstructor.load(best / "ar")
    pairs = PairSet(
        vectors_ND,
        _explanations_to_settle_on(recipe, space, best, vectors_ND),
        lessons.rows.take(rows),
    )
    training = SftConfig(**config.settling.model_dump(exclude={"vectors"}))
    taught = recipe.model_copy(update={"reconstructor": training})
    train_reconstructor(taught, reconstructor, pairs, mean_D, directory, GROUNDED_RL_PARTS)


def _explanations_to_settle_on(
    recipe: Recipe, space: Workspace, best: Path, vectors_ND: Tensor
) -> list[str]:
    """The AV's, a share of them in other words as in RL; kept, so that they are drawn once."""
    config, kept = grounded_rl_of(recipe), space.stage("settling") / EXPLANATIONS_NAME
    if not kept.exists():
        engine = LocalEngine(
            make_target(recipe, space),
            Verbalizer.load(best / "av"),
            Reconstructor.load(best / "ar"),
        )
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=recipe.seed
        )
        texts = [group[0].text for group in engine.verbalize(vectors_ND, sampling)]
        rng = random.Random(recipe.seed)
        chosen = [rng.random() < config.reword_share for _ in texts]
        reworded = [
            reword(text, row) if other else text
            for row, (text, other) in enumerate(zip(texts, chosen, strict=True))
        ]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"explanations": reworded})
    return read_json(kept)["explanations"]


def train_controls(recipe: Recipe, space: Workspace) -> None:
    """ARs trained on labels alone, for as many updates as those that went through RL with an AV.

    What they make of an AV's explanations says how much of a rise in FVE is the AR's own learning.
    """
    plain, grounded = make_pairs(recipe, space), grounding_of(recipe).reconstructor
    _train_control(recipe, space, "plain", plain, recipe.reconstructor, recipe.rl, PLAIN_RL_PARTS)
    _train_control(
        recipe, space, "grounded", make_grounded_pairs(recipe, space), grounded,
        grounded_rl_of(recipe), GROUNDED_RL_PARTS,
    )  # fmt: skip


def _train_control(
    recipe: Recipe,
    space: Workspace,
    name: str,
    pairs: PairSet,
    config: SftConfig,
    rl: RlConfig,
    parts: Sequence[str],
) -> None:
    target, mean_D = make_target(recipe, space), mean_vector(make_pairs(recipe, space).vectors)
    steps = config.steps + rl.steps * min(rl.reconstructor_updates, rl.group)
    if isinstance(rl, GroundedRlConfig) and rl.settling is not None:
        steps += rl.settling.steps
    longer = config.model_copy(update={"steps": steps, "batch_size": rl.vectors})
    taught = recipe.model_copy(update={"reconstructor": longer})
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    control = Reconstructor.from_target(target.model, target.tokenizer, meta)
    train_reconstructor(taught, control, pairs, mean_D, space.stage("controls") / name, parts)


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


def held_out_rows(recipe: Recipe, config: RlConfig, target: Target, mean_D: Tensor) -> HeldOut:
    """One place in each of the held-out documents that RL's figures are taken on."""
    seed = recipe.seed * 10 + HELD_OUT_SEED
    vectors, rows = sample_storyworld(target, seed, "heldout", config.evaluation_documents)
    return HeldOut(vectors, states_of(rows), mean_D)


# -- the result ----------------------------------------------------------------------------------
def publish(recipe: Recipe, space: Workspace) -> None:
    """Assemble the pair's directory: bf16 weights, what it is compared with, mean and card."""
    temporary = space.root / "nla.new"
    shutil.rmtree(temporary, ignore_errors=True)
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    target.save(temporary / "target", torch.bfloat16)
    for name, (av, ar) in pairs_to_publish(recipe, space).items():
        Verbalizer.load(av).save(temporary / name / "av", torch.bfloat16)
        Reconstructor.load(ar).save(temporary / name / "ar", torch.bfloat16)
    if recipe.grounding is not None:
        controls = space.stage("controls")
        for name, control in ((".", "grounded"), (PLAIN_RL, "plain")):
            directory = temporary / name / CONTROL_AR
            Reconstructor.load(controls / control / "model").save(directory, torch.bfloat16)
    mean_D = mean_vector(pairs.vectors)
    save_file({"mean": mean_D}, temporary / MEAN_NAME)
    write_card(temporary, _card(recipe, space, pairs.vectors, mean_D))
    probe_store.write_probes(
        temporary,
        min(probe_store.DOCUMENTS, recipe.extraction.documents),
        min(probe_store.TEST_DOCUMENTS, recipe.report.documents),
    )
    copy_run(recipe, space, temporary / "run")
    shutil.rmtree(space.nla, ignore_errors=True)
    temporary.rename(space.nla)


def final_rl(recipe: Recipe, space: Workspace) -> Path:
    """The stage whose best checkpoint is the recipe's pair."""
    return space.stage("rl" if recipe.grounding is None else "grounded-rl")


def pairs_to_publish(recipe: Recipe, space: Workspace) -> dict[str, tuple[Path, Path]]:
    """AV and AR of the pair (`.`), of its warm start, and of the plain rows to compare it with."""

    def warm_start(prefix: str) -> tuple[Path, Path]:
        av, ar = (space.stage(prefix + name) / "model" for name in ("verbalizer", "reconstructor"))
        return av, ar

    def trained(stage: Path) -> tuple[Path, Path]:
        return stage / "best" / "av", stage / "best" / "ar"

    av, ar = trained(final_rl(recipe, space))
    if recipe.grounding is None:
        return {".": (av, ar), WARM_START: warm_start("")}
    if grounded_rl_of(recipe).settling is not None:
        ar = finished(space.stage("settling")) / "model"
    return {
        ".": (av, ar),
        WARM_START: warm_start("grounded-"),
        PLAIN_WARM_START: warm_start(""),
        PLAIN_RL: trained(space.stage("rl")),
    }


def write_pair_report(recipe: Recipe, space: Workspace) -> None:
    """Calibrate the published pair, measure it, and put its figures on its card and beside it."""
    calibrate(space.nla, min(CALIBRATION_DOCUMENTS, recipe.report.documents))
    report = evaluate(space.nla, recipe.report.documents, recipe.report.seed)
    card = read_card(space.nla)
    measured = {"fve": report.fve, "floors": report.floors.model_dump()}
    write_card(space.nla, card.model_copy(update=measured))
    stage = "rl" if recipe.grounding is None else "grounded-rl"
    write_report(report, space.nla, read_metrics(space.nla / "run" / f"{stage}.jsonl"))


def calibrate(pair: Path, documents: int) -> None:
    """Leave `calibrator.json` beside a pair, unless its claims are all alike or there are none."""
    try:
        fit_confidence(load_pair(pair), documents).save(pair)
    except InputError as error:
        Console(stderr=True).print(f"No confidence for the claims of {pair.name}: {error}")


def _card(recipe: Recipe, space: Workspace, vectors_ND: Tensor, mean_D: Tensor) -> NlaCard:
    unit_ND = to_norm(vectors_ND, resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
    best = read_json(final_rl(recipe, space) / "best" / "best.json")
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
        for log in sorted(space.stage(name).rglob("metrics.jsonl")):
            parts = (name, *log.parent.relative_to(space.stage(name)).parts)
            shutil.copy(log, directory / f"{'-'.join(parts)}.jsonl")
    curves = space.stage("grounding") / CURVES_NAME
    if curves.exists():
        shutil.copy(curves, directory / CURVES_NAME)
