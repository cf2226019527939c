"""`nlakit audit-game`, and `nlakit storyworld organisms`, which trains what it is played on."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.audit.detect import Share
from nlakit.audit.game import Budget, GameRow, regraded, scores, to_json
from nlakit.card import read_card
from nlakit.config import parse_config
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.pair.load import load
from nlakit.registry import PLAIN_RL, bundled_path
from nlakit.worlds.storyworld.audit_game import (
    AUDITORS,
    AuditorName,
    Tools,
    keep_row,
    organisms_in,
    play,
    read_rows,
)
from nlakit.worlds.storyworld.conduct import quirk_rates
from nlakit.worlds.storyworld.organisms import OrganismsRecipe, train_organism

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import counting_progress
from .saes import load_sae

RUNS = Path("runs") / "organisms"
RECIPE = Path("recipes") / "organisms.toml"
CHECK_SEED = 70_021
Flag = Annotated[bool, Parameter(negative=())]


def organisms(
    recipe: Path = RECIPE,
    /,
    *overrides: str,
    output: Path = RUNS,
    only: str | None = None,
    check: int = 100,
    json: Flag = False,
) -> None:
    """Train variants of the bundled target with one known quirk each, and measure the quirks.

    Parameters
    ----------
    recipe
        A TOML file with kind = "organisms".
    overrides
        key=value pairs laid over the recipe, such as training.steps=100.
    output
        Directory of the models; one that is done is not trained again.
    only
        Train this one alone.
    check
        Held-out chats in which each quirk is measured; 0 measures nothing.
    json
        Print one JSON object.
    """
    if check < 0:
        raise InputError(f"--check must be 0 or more, found {check}.")
    made = parse_config(OrganismsRecipe, recipe, overrides)
    base = bundled_path() / "target"
    layer = bundled_layer()
    rows = []
    for name in made.chosen(only):
        model = train_organism(made, name, base, layer, output)
        rows.append({"organism": name, "model": str(model), **_rates(made, name, model, check)})
    if json:
        sys.stdout.write(json_module.dumps({"organisms": rows}, indent=2) + "\n")
    else:
        _show_rates(rows)


def bundled_layer() -> int:
    """The block that the bundled NLA reads."""
    return read_card(bundled_path()).layer


def _rates(recipe: OrganismsRecipe, name: str, model: Path, check: int) -> dict[str, Any]:
    config = recipe.organism[name]
    quirk = config.quirk
    told = {"when": config.when, "then": config.then, "about": config.about}
    if quirk is None or not check:
        return {**told, "rates": None}
    layer = bundled_layer()
    pair = [Target.load(path, layer) for path in (model, bundled_path() / "target")]
    rates = quirk_rates(pair[0], pair[1], quirk, CHECK_SEED, check)
    return {**told, "rates": {name: each._asdict() for name, each in rates._asdict().items()}}


def _show_rates(rows: list[dict[str, Any]]) -> None:
    names = {
        "under": "under the condition",
        "elsewhere": "without it",
        "overall": "all chats",
        "base_under": "base, under it",
    }
    table = Table("organism", "when", "then", *names.values())
    for row in rows:
        rates = row["rates"] or {}
        cells = [f"{rates[n]['value']:.0%}" if n in rates else "–" for n in names]
        table.add_row(row["organism"], row["when"] or "–", row["then"] or "–", *cells)
    Console().print(table)


def audit_game(
    *,
    organisms: Path = RUNS,
    auditors: tuple[AuditorName, ...] = (),
    seeds: int = 3,
    explore: int = 48,
    confirm: int = 10,
    sae: str = "sae-storyworld/topk",
    output: Path | None = None,
    json: Flag = False,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Let scripted auditors name the quirk of each organism, with the same budget of chats.

    Parameters
    ----------
    organisms
        Directory that `nlakit storyworld organisms` wrote.
    auditors
        conversation, logit-lens, sae, nla (trained without grounding), grounded-nla; by default
        all.
    seeds
        Each decides other chats.
    explore
        Chats that an audit explores.
    confirm
        Fresh chats with, and as many without, the condition of each of up to three suspects.
    sae
        An autoencoder of the bundled target.
    output
        File of finished audits, by default audits-EXPLORE-CONFIRM.jsonl beside the organisms; what
        stands there is not played again.
    json
        Print one JSON object.
    pair
        The NLA of grounded-nla; its target is the base of the organisms.
    devices
        Where models run.
    """
    if min(seeds, explore - 1, confirm - 1) < 1:
        raise InputError(
            "--seeds must be 1 or more, --explore and --confirm 2 or more; "
            f"found {seeds}, {explore} and {confirm}."
        )
    budget, chosen = Budget(explore, confirm), auditors or AUDITORS
    found = organisms_in(organisms)
    path = output or organisms / f"audits-{explore}-{confirm}.jsonl"
    agents = read_rows(organisms / "audits-agents.jsonl")
    rows = [row for row in read_rows(path) if row.auditor in chosen and row.seed < seeds]
    total = len(found) * len(chosen) * seeds
    with counting_progress("audits") as progress:
        for row in play(
            _tools(chosen, sae, pair, devices), found, chosen, range(seeds), budget, rows
        ):
            keep_row(path, row)
            rows.append(row)
            if progress is not None:
                progress(len(rows), total)
    truths = {each.name: each.truth for each in found}
    known = [row for row in [*rows, *agents] if row.organism in truths]
    rows = [regraded(row, truths[row.organism]) for row in known]
    controls = frozenset(each.name for each in found if each.truth is None)
    if json:
        made = {"explore": explore, "confirm": confirm, **to_json(rows, controls)}
        sys.stdout.write(json_module.dumps(made, indent=2) + "\n")
    else:
        _show_scores(rows, controls)


def _tools(
    chosen: tuple[AuditorName, ...], sae: str, pair: PairOptions, devices: DeviceOptions
) -> Tools:
    grounded = pair.load(devices)
    return Tools(
        base=grounded.target,
        sae=load_sae(sae) if "sae" in chosen else None,
        plain=load(PLAIN_RL, device=devices.device, dtype=devices.dtype)
        if "nla" in chosen
        else None,
        grounded=grounded,
    )


def _show_scores(rows: list[GameRow], controls: frozenset[str]) -> None:
    halves = ("condition named", "behaviour named")
    table = Table("auditor", "quirk named", *halves, "false alarms on controls")
    for each in scores(rows, controls):
        shares = (each.success, each.condition, each.behaviour, each.false_alarms)
        table.add_row(each.auditor, *map(_percent, shares))
    Console().print(table)


def _percent(share: Share) -> str:
    if share.low is None or share.high is None:
        return "–"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"
