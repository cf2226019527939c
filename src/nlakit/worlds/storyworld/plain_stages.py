"""The stages of the plain pair: target, activations and labels, warm start, joint RL."""

from __future__ import annotations

from nlakit.data.datasets import PairSet, load_pairs
from nlakit.data.labels import write_labels
from nlakit.engines.local import LocalEngine
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.claims import parse
from nlakit.train.rl import train_rl
from nlakit.train.run import RunDirectory, finished
from nlakit.train.sft import train_reconstructor, train_verbalizer

from .extraction import extract_storyworld
from .recipe import StoryworldRecipe
from .target import train_target
from .teacher import StoryworldTeacher
from .workspace import Workspace, held_out_rows, mean_vector, pair_meta

EXTRACTION_SEED = 4
VERBALIZER_PARTS = ("target", "extraction", "verbalizer")
RECONSTRUCTOR_PARTS = ("target", "extraction", "reconstructor")
RL_PARTS = ("target", "extraction", "verbalizer", "reconstructor", "rl")


def make_target(recipe: StoryworldRecipe, space: Workspace) -> Target:
    return train_target(recipe, space.stage("target"))


def make_pairs(recipe: StoryworldRecipe, space: Workspace) -> PairSet:
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


def warm_start_verbalizer(recipe: StoryworldRecipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    meta = pair_meta(recipe, target, pairs.vectors, "av")
    verbalizer = Verbalizer.from_target(target.model, target.tokenizer, meta)
    run = RunDirectory(space.stage("verbalizer"), recipe.stage(*VERBALIZER_PARTS))
    train_verbalizer(verbalizer, pairs, recipe.verbalizer, recipe.settings, run, parse)


def warm_start_reconstructor(recipe: StoryworldRecipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    meta = pair_meta(recipe, target, pairs.vectors, "ar")
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, meta)
    run = RunDirectory(space.stage("reconstructor"), recipe.stage(*RECONSTRUCTOR_PARTS))
    mean_D = mean_vector(pairs.vectors)
    train_reconstructor(reconstructor, pairs, mean_D, recipe.reconstructor, recipe.settings, run)


def joint_rl(recipe: StoryworldRecipe, space: Workspace) -> None:
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    av_dir, ar_dir = (
        finished(space.stage(name)) / "model" for name in ("verbalizer", "reconstructor")
    )
    rows = recipe.rl.vectors * recipe.rl.group
    engine = LocalEngine(target, Verbalizer.load(av_dir), Reconstructor.load(ar_dir), rows)
    train_rl(
        engine,
        Verbalizer.load(av_dir),
        Reconstructor.load(ar_dir),
        pairs.vectors,
        held_out_rows(recipe, recipe.rl, target, mean_vector(pairs.vectors)),
        recipe.rl,
        recipe.settings,
        RunDirectory(space.stage("rl"), recipe.stage(*RL_PARTS)),
    )
