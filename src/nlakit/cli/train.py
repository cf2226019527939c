"""`nlakit train`: runs a recipe from nothing to a pair."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from nlakit.train.pipeline import run

RUNS = Path("runs")


def train(
    recipe: Path, /, *overrides: str, output: Path | None = None, only: str | None = None
) -> None:
    """Make an NLA from a recipe; a killed run is continued where it stopped.

    Parameters
    ----------
    recipe
        A TOML file, such as recipes/storyworld.toml.
    overrides
        key=value pairs laid over the recipe, such as rl.steps=100.
    output
        Directory of the run; by default runs/NAME, NAME being the recipe's file name.
    only
        Make one stage and stop: target, activations, verbalizer, reconstructor or rl.
    """
    made = run(recipe, list(overrides), output or RUNS / recipe.stem, only)
    if only is not None:
        print(made)
        return
    Console(stderr=True).print(
        f"Done. Read with it: nlakit explain --nla {made} TEXT", markup=False
    )
    print(made)
