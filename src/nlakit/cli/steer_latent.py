"""`nlakit steer-latent`: give a latent another value, and read what the target writes then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from nlakit.errors import InputError
from nlakit.sae.steering import SteeredByLatent, steer_by_latent
from nlakit.sae.store import STORE_NAME, DashboardStore

from .devices import AUTOMATIC, DeviceOptions
from .requests import read_text
from .saes import find_sae, load_sae, target_of


def steer_latent(
    text: str | None = None,
    /,
    *,
    sae: str,
    latent: int,
    value: float | None = None,
    position: int = -1,
    tokens: int = 20,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    target: str | None = None,
    devices: DeviceOptions = AUTOMATIC,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Give a latent another value at one token, and continue the text with and without it.

    Parameters
    ----------
    text
        The text; "-" or nothing reads standard input.
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    latent
        Its number.
    value
        Its new value; 0 ablates it. By default the largest one on its dashboard.
    position
        The token; negative ones count from the end.
    tokens
        Tokens to write.
    file
        Read the text from this file.
    target
        The model whose activations it reads; by default the one that it names.
    devices
        Where the target runs.
    json
        Print one JSON object.
    """
    passage = read_text(text, file)
    if tokens < 1:
        raise InputError(f"--tokens {tokens}: write one or more.")
    autoencoder = load_sae(sae)
    wanted = _largest(sae, latent) if value is None else value
    model = target_of(autoencoder, target, devices)
    found = steer_by_latent(
        autoencoder.to(model.model.device),
        model,
        model.encode(passage).ids,
        latent,
        wanted,
        name=sae,
        position=position,
        max_new_tokens=tokens,
    )
    if json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        show(found, Console())


def _largest(sae: str, latent: int) -> float:
    path = find_sae(sae) / STORE_NAME
    if not path.exists():
        raise InputError(
            "There are no dashboards that say how strong the latent gets. Give --value, or build "
            "them: nlakit dashboards build."
        )
    with DashboardStore(path) as store:
        return store.dashboard(latent).max_activation


def show(found: SteeredByLatent, console: Console) -> None:
    """Both continuations, for a terminal."""
    console.print(
        f"latent {found.latent} at token {found.position}: {found.found:.2f} to {found.value:.2f}, "
        f"{found.strength:.2f} of the activation's norm",
        highlight=False,
    )
    console.print(Text(f"before {found.before!r}"))
    console.print(Text(f"after  {found.after!r}"))
    console.print(f"KL on unrelated texts {found.kl_unrelated:.3f} nats", highlight=False)
