"""A recipe from nothing to a published pair: each stage in its own directory, skipped when done.

    1-target  2-activations  3-verbalizer  4-reconstructor  5-rl  nla (the pair)

and, where the recipe has a `[grounding]`, a second pair that keeps to what it can read, with the
first one's stages as rows to compare it with:

    6-grounding  7-grounded-verbalizer  8-grounded-reconstructor  9-grounded-rl
    10-settling  11-controls

Stages talk through files only, so a killed pipeline goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nlakit.config import parse_config
from nlakit.errors import ConfigError

from . import grounded_stages as grounded
from . import plain_stages as plain
from .publication import REPORT_NAME, publish, write_pair_report
from .recipe import StoryworldRecipe
from .workspace import GROUNDED_STAGES, STAGES, Workspace


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
    recipe = parse_config(StoryworldRecipe, recipe_path, overrides)
    space = Workspace(output)
    if only is not None and only not in STAGES:
        raise ConfigError(f"There is no stage {only!r}. The stages are {', '.join(STAGES)}.")
    stages: dict[str, Callable[[StoryworldRecipe, Workspace], object]] = {
        "target": plain.make_target,
        "activations": plain.make_pairs,
        "verbalizer": plain.warm_start_verbalizer,
        "reconstructor": plain.warm_start_reconstructor,
        "rl": plain.joint_rl,
    }
    if recipe.grounding is not None:
        stages |= {
            "grounding": grounded.make_grounded_pairs,
            "grounded-verbalizer": grounded.ground_verbalizer,
            "grounded-reconstructor": grounded.ground_reconstructor,
            "grounded-rl": grounded.grounded_rl,
            "settling": grounded.settle_reconstructor,
            "controls": grounded.train_controls,
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
