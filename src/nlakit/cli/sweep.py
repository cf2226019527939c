"""`nlakit sweep`: compares layers of a model by what a recipe makes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.config import parse_config
from nlakit.errors import ConfigError
from nlakit.train.model_recipe import ModelRecipe, is_of_a_model
from nlakit.train.sweep import Sweep, up_to_warm_starts
from nlakit.train.sweep import sweep as run_sweep


def sweep(
    recipe: Path,
    /,
    *overrides: str,
    layers: str,
    output: Path,
    probe_rows: int = 4000,
    documents: int = 400,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Run a model recipe up to its warm starts at several layers, and compare them.

    Parameters
    ----------
    recipe
        A TOML file for an existing model, such as recipes/smollm2-135m.toml.
    overrides
        key=value pairs laid over the recipe, such as corpus.documents=2000.
    layers
        Blocks to read, counted from 0, such as 10,15,20,25.
    output
        Directory of the runs, one a layer, and of sweep.json.
    probe_rows
        Rows of training documents for probes of what labels state; 0 for none.
    documents
        Held-out documents that probes are tested on.
    json
        Print one JSON object.
    """
    if not is_of_a_model(recipe, overrides):
        raise ConfigError(f"{recipe} trains its own target. Give a recipe for an existing model.")
    found = parse_config(ModelRecipe, recipe, overrides, up_to_warm_starts)
    made = run_sweep(found, parse_layers(layers), output, probe_rows, documents)
    if json:
        sys.stdout.write(made.model_dump_json(indent=2) + "\n")
    else:
        show(made)


def parse_layers(text: str) -> list[int]:
    """Numbers from "10,15,20". Raises `ConfigError`."""
    try:
        return [int(each) for each in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text}: expected numbers such as 10,15,20.") from error


def show(made: Sweep) -> None:
    """A line a layer."""
    kinds = [*made.layers[0].probes]
    table = Table("layer", "FVE of labels", "gap, nats a token", *kinds, title=made.recipe)
    for each in made.layers:
        probes = (f"{each.probes[kind]:.2f} ({each.chance[kind]:.2f})" for kind in kinds)
        table.add_row(str(each.layer), f"{each.fve:.3f}", f"{each.gap:.3f}", *probes)
    Console().print(table)
    if kinds:
        print("Probes: accuracy on held-out documents, that of the commonest value in brackets.")
