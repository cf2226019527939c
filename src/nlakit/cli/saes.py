"""What verbs about sparse autoencoders share: finding one, its target, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nlakit.config import load_toml, parse_config
from nlakit.models.hub import locate
from nlakit.models.placement import placement
from nlakit.models.target import Target
from nlakit.registry import BUNDLED_NAMES, bundled_path
from nlakit.sae.recipe import KIND, SaeRecipe
from nlakit.sae.run import run_recipe
from nlakit.sae.texts import CorpusTexts, TextSource
from nlakit.worlds.storyworld.sae import CORPUS_NAME, StoryworldTexts

from .devices import AUTOMATIC, DeviceOptions


def is_sae_recipe(path: Path, overrides: Sequence[str] = ()) -> bool:
    """Whether a recipe says `kind = "sae"`. Raises `ConfigError` for one that cannot be read."""
    return load_toml(path, overrides).get("kind") == KIND


def train_saes(path: Path, overrides: Sequence[str], output: Path, only: str | None) -> Path:
    """Train the autoencoders of a recipe; returns the directory.

    Raises:
        ConfigError, InputError, CheckpointError, ResumeError: as `run_recipe` and `load_target`.
    """
    recipe = parse_config(SaeRecipe, path, overrides)
    target = load_target(recipe.target.model, recipe.target.layer)
    activations = recipe.activations
    source = None
    if activations.corpus is not None:
        limits = (activations.max_tokens, activations.first_position)
        source = texts_of(activations.corpus, recipe.seed, *limits)
    return run_recipe(recipe, target, source, output, only)


def load_target(model: str, layer: int, devices: DeviceOptions = AUTOMATIC) -> Target:
    """The target of the bundled NLA, or a model by its directory or its name on the hub.

    Raises:
        InputError: there is no such model or layer.
        CheckpointError: its weights cannot be read.
    """
    is_bundled = model in BUNDLED_NAMES
    directory = bundled_path() / "target" if is_bundled else locate(model)
    where = placement(devices.device, devices.dtype)
    target = Target.load(directory, layer, where.dtype_of(directory))
    target.model.to(where.device)
    return target


def texts_of(corpus: str, seed: int, max_tokens: int = 256, first_position: int = 1) -> TextSource:
    """The storyworld by its name, or a corpus."""
    if corpus == CORPUS_NAME:
        return StoryworldTexts(seed)
    return CorpusTexts(corpus, max_tokens, first_position)
