"""`nlakit train`: runs a recipe from nothing to a pair."""

from __future__ import annotations

from pathlib import Path

from nlakit.console import notice
from nlakit.errors import ConfigError
from nlakit.train import distributed
from nlakit.train.corpus_world import train_model_recipe
from nlakit.train.model_recipe import ModelRecipe
from nlakit.worlds.storyworld.world import train_storyworld_recipe

from .recipes import read_recipe
from .saes import is_sae_recipe, train_saes

RUNS = Path("runs")


def train(
    recipe: Path, /, *overrides: str, output: Path | None = None, only: str | None = None
) -> None:
    """Make an NLA from a recipe; a killed run is continued where it stopped.

    Parameters
    ----------
    recipe
        A TOML file, such as recipes/storyworld.toml, or recipes/qwen2.5-0.5b-1gpu.toml for an NLA
        of a released model, or recipes/sae-storyworld.toml for sparse autoencoders.
    overrides
        key=value pairs laid over the recipe, such as rl.steps=100.
    output
        Directory of the run; by default runs/NAME, NAME being the recipe's file name.
    only
        Make one stage and stop: target (of a recipe that makes its own), activations, labels,
        verbalizer, reconstructor or rl; where the recipe has them, grounding, grounded-verbalizer,
        grounded-reconstructor, grounded-rl, abstention, settling or controls; and report. Of sparse
        autoencoders: the name of one.
    """
    directory = output or RUNS / recipe.stem
    if is_sae_recipe(recipe, overrides):
        print(train_saes(recipe, overrides, directory, only))
        return
    with distributed.joined():
        made = _made(recipe, list(overrides), directory, only)
        if distributed.is_first():
            _announce(made, whole=only is None)


def _made(recipe: Path, overrides: list[str], directory: Path, only: str | None) -> Path:
    found = read_recipe(recipe, overrides)
    if isinstance(found, ModelRecipe):
        return train_model_recipe(found, directory, only)
    if distributed.num_processes() > 1:
        raise ConfigError(f"{recipe} makes its own target: it is trained by one process.")
    return train_storyworld_recipe(found, directory, only)


def _announce(made: Path, *, whole: bool) -> None:
    if whole:
        said = f"Done. Read with it: nlakit explain --nla {made} TEXT"
        notice(said)
    print(made)
