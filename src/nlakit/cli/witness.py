"""`nlakit witness`: an NLA's explanations with a sparse autoencoder as witness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from nlakit.sae.features import ActiveLatent
from nlakit.sae.store import STORE_NAME
from nlakit.sae.witness import WitnessedText, WitnessedToken, witness_text

from .devices import AUTOMATIC, DeviceOptions
from .explain import parse_positions
from .features import labels_of
from .pairs import BUNDLED, PairOptions
from .requests import read_text
from .saes import find_sae, load_sae

SHOWN = 5


def witness(
    text: str | None = None,
    /,
    *,
    sae: str,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    positions: str | None = None,
    last: int | None = None,
    residual: Annotated[bool, Parameter(negative=())] = False,
    dashboards: Annotated[Path | None, Parameter(negative=())] = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show which latents of each activation its explanation keeps, loses and invents.

    Parameters
    ----------
    text
        The text; "-" or nothing reads standard input.
    sae
        Directory of an autoencoder of the pair's target and layer, or the name of one trained here.
    file
        Read the text from this file.
    positions
        Read only these tokens, such as 0,4-7.
    last
        Read only the last N tokens.
    residual
        Let the NLA read what the autoencoder leaves out, too. It was trained on no such vector.
    dashboards
        Store with labels of latents; by default the one beside the autoencoder.
    json
        Print one JSON object.
    """
    passage = read_text(text, file)
    places = None if positions is None else parse_positions(positions)
    autoencoder = load_sae(sae)
    loaded = pair.load(devices)
    found = witness_text(
        loaded,
        autoencoder.to(loaded.target.model.device),
        passage,
        name=sae,
        positions=places,
        last=last,
        residual=residual,
        labels=labels_of(dashboards or find_sae(sae) / STORE_NAME),
    )
    if json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        show(found, Console())


def show(found: WitnessedText, console: Console) -> None:
    """Each token with what became of its latents, for a terminal."""
    for token in found.tokens:
        console.print(Text(f"{token.token!r}  {token.explanation}"))
        console.print(Text(_latents(token), style="dim"))
        if token.residual is not None:
            said = f"  residual (off-manifold, fidelity {token.residual_fidelity:.2f}): "
            console.print(Text(said + token.residual, style="dim"))


def _latents(token: WitnessedToken) -> str:
    groups = {"shared": token.shared, "lost": token.lost, "invented": token.invented}
    told = [f"{len(each)} {name}: {_named(each)}" for name, each in groups.items() if each]
    return f"  Jaccard {token.jaccard:.2f}  " + "; ".join(told)


def _named(latents: tuple[ActiveLatent, ...]) -> str:
    return ", ".join(str(each.label or each.index) for each in latents[:SHOWN])
