"""`nlakit features`: which latents are active at each token of a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.sae.features import ActiveLatent, TextFeatures, features_of
from nlakit.sae.store import STORE_NAME, DashboardStore

from .devices import AUTOMATIC, DeviceOptions
from .explain import parse_positions
from .requests import read_text
from .saes import find_sae, load_sae, target_of

SHOWN = 4


def features(
    text: str | None = None,
    /,
    *,
    sae: str,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    positions: str | None = None,
    latent: Annotated[list[int] | None, Parameter(negative=())] = None,
    top: int = 10,
    target: str | None = None,
    dashboards: Annotated[Path | None, Parameter(negative=())] = None,
    devices: DeviceOptions = AUTOMATIC,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show the latents of a sparse autoencoder that are active in a text.

    Parameters
    ----------
    text
        The text; "-" or nothing reads standard input.
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    file
        Read the text from this file.
    positions
        Read only these tokens, such as 0,4-7.
    latent
        Show only this latent; may be given several times.
    top
        Latents per token at most.
    target
        The model whose activations it reads; by default the one that it names.
    dashboards
        Store with labels of latents; by default the one beside the autoencoder.
    devices
        Where the target runs.
    json
        Print one JSON object.
    """
    passage = read_text(text, file)
    places = None if positions is None else parse_positions(positions)
    autoencoder = load_sae(sae)
    model = target_of(autoencoder, target, devices)
    found = features_of(
        autoencoder.to(model.model.device),
        model,
        model.encode(passage),
        name=sae,
        positions=places,
        top=top,
        latents=latent or (),
        labels=labels_of(dashboards or find_sae(sae) / STORE_NAME),
    )
    if json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(found))


def labels_of(path: Path) -> dict[int, str]:
    """Labels in a store of dashboards; none where there is no store."""
    if not path.exists():
        return {}
    with DashboardStore(path) as store:
        return store.labels()


def summary(found: TextFeatures) -> Table:
    """A row a token, for a terminal."""
    table = Table(title=f"{found.sae}: layer {found.layer}")
    for name in ("token", "L0", "error", "strongest latents"):
        table.add_column(name, justify="right" if name in ("L0", "error") else "left")
    for token in found.tokens:
        shown = "  ".join(_shown(each) for each in token.features[:SHOWN])
        # A token may look like markup.
        table.add_row(Text(repr(token.token)), str(token.l0), f"{token.error:.2f}", Text(shown))
    return table


def _shown(each: ActiveLatent) -> str:
    name = "" if each.label is None else f" {each.label}"
    return f"{each.index}{name} ({each.activation:.1f})"
