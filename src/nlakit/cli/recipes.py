"""Recipes of both kinds: for an existing model, or for the storyworld's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nlakit.config import parse_config
from nlakit.train.model_recipe import ModelRecipe, is_of_a_model
from nlakit.train.plan import Device, Plan
from nlakit.train.plan import plan as plan_model
from nlakit.worlds.storyworld.plan import plan as plan_storyworld
from nlakit.worlds.storyworld.recipe import StoryworldRecipe

AnyRecipe = ModelRecipe | StoryworldRecipe


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe of either kind. Raises `ConfigError` as `parse_config` does."""
    kind = ModelRecipe if is_of_a_model(path, overrides) else StoryworldRecipe
    return parse_config(kind, path, overrides)


def plan_of(recipe: AnyRecipe, device: Device, num_devices: int = 1) -> Plan:
    """What a recipe of either kind will take. Raises `ConfigError` for no device."""
    if isinstance(recipe, StoryworldRecipe):
        return plan_storyworld(recipe, device, num_devices)
    return plan_model(recipe, device, num_devices)
