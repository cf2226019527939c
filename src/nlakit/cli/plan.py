"""`nlakit plan`: what a recipe will take, before anything is run."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.contract import AUTO
from nlakit.train.model_recipe import ModelRecipe
from nlakit.train.plan import GIB, UTILISATION, Plan, device_named
from nlakit.train.progress import time_span

from .recipes import AnyRecipe, plan_of, read_recipe


def plan(
    recipe: Path,
    /,
    *overrides: str,
    device: str | None = None,
    devices: int | None = None,
    flops: float | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print tokens, arithmetic, memory, label cost and hours of a recipe; runs nothing.

    Parameters
    ----------
    recipe
        A TOML file, such as recipes/qwen2.5-7b-8gpu.toml.
    overrides
        key=value pairs laid over the recipe, such as rl.steps=150.
    device
        a100, h100, h200, rtx4090 or cpu; by default the recipe's, or cpu.
    devices
        How many; by default the recipe's, or 1.
    flops
        Operations a second that training reaches on one device, such as 200e9. By default the
        table's 40 % of an accelerator's peak, and on a CPU 40 % of the speed of this machine's
        matrix products, which are timed for a third of a second.
    json
        Print one JSON object.
    """
    found = read_recipe(recipe, list(overrides))
    named, count = "cpu", 1
    if isinstance(found, ModelRecipe):
        named, count = found.devices.kind, found.devices.count
    where = device or named
    rate, source = _rate(where, flops, found)
    made = plan_of(found, device_named(where, rate), count if devices is None else devices)
    marker = _marker(found) if isinstance(found, ModelRecipe) else None
    if json:
        figures = made.model_dump(mode="json")
        figures |= {"flops": made.flops, "hours": made.hours, "peak_bytes": made.peak_bytes}
        figures |= {"marker": marker, "rate": device_named(where, rate).flops, "rate_from": source}
        sys.stdout.write(json_module.dumps(figures, indent=2) + "\n")
    else:
        _show(made)
        Console().print(f"Rate: {device_named(where, rate).flops:.3g} FLOP/s a device, {source}.")
        if isinstance(found, ModelRecipe):
            Console().print(f"Marker: {marker or 'auto, found when the checkpoint is here'}.")


def _rate(device: str, flops: float | None, recipe: AnyRecipe) -> tuple[float | None, str]:
    """Operations a second that training reaches, None for the table's, and where they are from."""
    if flops is not None:
        return flops, "as given"
    if device != "cpu":
        return None, f"{UTILISATION:.0%} of the peak in its data sheet"
    from nlakit.models.precision import compute_dtype
    from nlakit.models.speed import product_speed

    dtype = compute_dtype(recipe.settings.precision, device)
    name = str(dtype).removeprefix("torch.")
    source = f"{UTILISATION:.0%} of this machine's products in {name}, just measured"
    return UTILISATION * product_speed(dtype), source


def _marker(recipe: ModelRecipe) -> str | None:
    """The character that stands for a vector; None: the tokenizer that decides it is not here."""
    target = recipe.target
    if target.marker != AUTO:
        return target.marker
    if not Path(target.checkpoint).expanduser().exists():
        return None
    from nlakit.models.hub import locate
    from nlakit.models.io import load_tokenizer
    from nlakit.train.prompts import model_tokens

    tokenizer = load_tokenizer(locate(target.checkpoint))
    return model_tokens(tokenizer, AUTO, target.checkpoint, recipe.name).injection_char


def _show(made: Plan) -> None:
    console = Console()
    table = Table(title=f"{made.recipe} on {made.num_devices} x {made.device}")
    table.add_column("stage")
    for name in ("tokens", "FLOPs", "time"):
        table.add_column(name, justify="right")
    for stage in made.stages:
        took = time_span(stage.hours * 3600)
        table.add_row(stage.name, f"{stage.tokens:.3g}", f"{stage.flops:.3g}", took)
    table.add_row("all", "", f"{made.flops:.3g}", time_span(made.hours * 3600), style="bold")
    console.print(table)
    parts = ", ".join(f"{name} {size / GIB:.3g}" for name, size in made.memory_bytes.items())
    console.print(f"Memory of one device: {made.peak_bytes / GIB:.3g} GiB ({parts}).")
    if made.peak_bytes > made.device_memory_bytes:
        console.print(
            f"More than the {made.device_memory_bytes / GIB:.3g} GiB of a {made.device}.",
            style="red",
        )
    cost = "no price given" if made.label_dollars is None else f"${made.label_dollars:,.2f}"
    console.print(f"Labels: {cost}.")
