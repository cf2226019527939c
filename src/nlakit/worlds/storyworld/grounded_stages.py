"""The stages of the pair that keeps to what it can read (docs/grounding.md), after the plain ones.

A judge that never saw a label scores its claims; an AV and an AR learn from what is left; RL goes
on from them with the judge in its reward; the AR settles; and control ARs say how much of a rise is
the AR's own learning.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from nlakit.claims.grounding import ClaimJudge, judge_curves
from nlakit.data.datasets import PairSet, join, load_pairs
from nlakit.data.shards import ShardReader
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.claims import parse
from nlakit.storyworld.rewording import reword
from nlakit.train.config import GroundedRlConfig, RlConfig, SftConfig
from nlakit.train.evaluation import EVALUATION_TOKENS
from nlakit.train.rl import TruthTerms, train_rl
from nlakit.train.run import RunDirectory, finished, read_json, write_json
from nlakit.train.sft import train_reconstructor, train_verbalizer

from .claims import STORYWORLD
from .documents import states_of
from .extraction import extract_storyworld, sample_storyworld
from .grounding import full_labels, ground, write_grounded
from .plain_stages import RL_PARTS as PLAIN_RL_PARTS
from .plain_stages import make_pairs, make_target
from .recipe import GroundingConfig, StoryworldRecipe
from .workspace import HELD_OUT_SEED, Workspace, held_out_rows, mean_vector, pair_meta

GROUNDING_SEED, EXTRA_SEED, JUDGE_SEED = 7, 8, 9
GROUNDED_PARTS = ("target", "extraction", "verbalizer", "reconstructor", "grounding")
GROUNDED_RL_PARTS = (*GROUNDED_PARTS, "grounded_rl")
CURVES_NAME, EXPLANATIONS_NAME = "curves.json", "explanations.json"


def grounding_of(recipe: StoryworldRecipe) -> GroundingConfig:
    assert recipe.grounding is not None, "the stages of a recipe without one are never made"
    return recipe.grounding


def grounded_rl_of(recipe: StoryworldRecipe) -> GroundedRlConfig:
    assert recipe.grounded_rl is not None, "a recipe has both parts or neither"
    return recipe.grounded_rl


def make_grounded_pairs(recipe: StoryworldRecipe, space: Workspace) -> PairSet:
    """Fresh activations, and labels of them without what a judge that never saw them can't read."""
    config, directory = grounding_of(recipe), space.stage("grounding")
    sets = [_GroundedSet(directory, config.documents, GROUNDING_SEED)]
    if config.extra_documents:
        # First, since the last rows of a set are the ones that training is watched on.
        extra = _GroundedSet(directory / "extra", config.extra_documents, EXTRA_SEED, config.about)
        sets.insert(0, extra)
    run = RunDirectory(directory, recipe.stage(*GROUNDED_PARTS))
    if run.done is None:
        judge = ClaimJudge(train_judge(recipe, space), STORYWORLD, recipe.precision)
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
    recipe: StoryworldRecipe, space: Workspace, judge: ClaimJudge, sets: Sequence[_GroundedSet]
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
    recipe: StoryworldRecipe,
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


def make_lessons(recipe: StoryworldRecipe, space: Workspace) -> PairSet:
    """What the judge and RL learn from: activations of rare facts, then the plain stages' ones."""
    config, pairs = grounding_of(recipe), make_pairs(recipe, space)
    shards = space.stage("grounding") / "judge-extra"
    if not config.extra_documents:
        return pairs
    extract_for_grounding(recipe, space, shards, config.extra_documents, JUDGE_SEED, config.about)
    vectors, rows = ShardReader(shards).load()
    return join(PairSet(vectors, [""] * len(vectors), rows), pairs)


def train_judge(recipe: StoryworldRecipe, space: Workspace) -> Verbalizer:
    """The warm-started AV, taught on by full labels that quote as a grounded label does."""
    config, directory = grounding_of(recipe), space.stage("grounding") / "judge"
    if not (directory / "done.json").exists():
        lessons = make_lessons(recipe, space)
        full = replace(lessons, explanations=full_labels(states_of(lessons.rows), recipe.seed))
        start = Verbalizer.load(finished(space.stage("verbalizer")) / "model")
        run = RunDirectory(directory, recipe.stage(*GROUNDED_PARTS, verbalizer=config.judge))
        train_verbalizer(start, full, config.judge, recipe.settings, run, parse)
    return Verbalizer.load(directory / "model")


def measure_judge(
    recipe: StoryworldRecipe, space: Workspace, target: Target, judge: ClaimJudge
) -> None:
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


def ground_verbalizer(recipe: StoryworldRecipe, space: Workspace) -> None:
    pairs = make_grounded_pairs(recipe, space)
    judge = Verbalizer.load(space.stage("grounding") / "judge" / "model")
    config = grounding_of(recipe).verbalizer
    decided = recipe.stage(*GROUNDED_PARTS, verbalizer=config)
    run = RunDirectory(space.stage("grounded-verbalizer"), decided)
    train_verbalizer(judge, pairs, config, recipe.settings, run, parse)


def ground_reconstructor(recipe: StoryworldRecipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_grounded_pairs(recipe, space)
    mean_D = mean_vector(make_pairs(recipe, space).vectors)
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, meta)
    config = grounding_of(recipe).reconstructor
    decided = recipe.stage(*GROUNDED_PARTS, reconstructor=config)
    run = RunDirectory(space.stage("grounded-reconstructor"), decided)
    train_reconstructor(reconstructor, pairs, mean_D, config, recipe.settings, run)


def grounded_rl(recipe: StoryworldRecipe, space: Workspace) -> None:
    config = grounded_rl_of(recipe)
    target, mean_D = make_target(recipe, space), mean_vector(make_pairs(recipe, space).vectors)
    av_dir, ar_dir = (
        finished(space.stage(name)) / "model"
        for name in ("grounded-verbalizer", "grounded-reconstructor")
    )
    judge = ClaimJudge(
        Verbalizer.load(space.stage("grounding") / "judge" / "model"),
        STORYWORLD,
        recipe.precision,
    )
    rows = config.vectors * config.group
    engine = LocalEngine(target, Verbalizer.load(av_dir), Reconstructor.load(ar_dir), rows)
    train_rl(
        engine,
        Verbalizer.load(av_dir),
        Reconstructor.load(ar_dir),
        make_lessons(recipe, space).vectors,
        held_out_rows(recipe, config, target, mean_D),
        config,
        recipe.settings,
        RunDirectory(space.stage("grounded-rl"), recipe.stage(*GROUNDED_RL_PARTS)),
        TruthTerms(config, judge, target, reword),
    )


def settle_reconstructor(recipe: StoryworldRecipe, space: Workspace) -> None:
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
    run = RunDirectory(directory, recipe.stage(*GROUNDED_RL_PARTS, reconstructor=training))
    train_reconstructor(reconstructor, pairs, mean_D, training, recipe.settings, run)


def _explanations_to_settle_on(
    recipe: StoryworldRecipe, space: Workspace, best: Path, vectors_ND: Tensor
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


def train_controls(recipe: StoryworldRecipe, space: Workspace) -> None:
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
    recipe: StoryworldRecipe,
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
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    control = Reconstructor.from_target(target.model, target.tokenizer, meta)
    run = RunDirectory(space.stage("controls") / name, recipe.stage(*parts, reconstructor=longer))
    train_reconstructor(control, pairs, mean_D, longer, recipe.settings, run)
