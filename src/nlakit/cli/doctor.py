"""`nlakit doctor`: says what is wrong with a pair."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.card import read_card
from nlakit.console import notice, tell
from nlakit.engines.base import MAX_NEW_TOKENS
from nlakit.errors import InputError
from nlakit.pair.load import load_source
from nlakit.publish.doctor import TEXTS, Diagnosis, diagnose, write_mean
from nlakit.worlds.storyworld.claims import STORYWORLD
from nlakit.worlds.storyworld.documents import sample_texts

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .progress import reading_progress
from .requests import read_text

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    *,
    pair: PairOptions = BUNDLED,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    write_mean_to: Annotated[Path | None, Parameter(name="--write-mean")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Say what is wrong with a pair, and what to do; exit status 1 where something fails.

    Parameters
    ----------
    file
        Texts to try it on, with empty lines between them; by default four of ours.
    max_new_tokens
        Longest answer, in tokens.
    write_mean_to
        Write mean and variance of all activations of the texts to this file, for --mean.
    json
        Print one JSON object.
    devices
        Where models run.
    """
    source, where = pair.source(), devices.placement()
    card = None if source.paths is None else read_card(source.paths.shared)
    texts = _texts(file, card is not None and card.claims == STORYWORLD.name)
    made = partial(load_source, source, where)
    with reading_progress() as on_text:
        found = diagnose(
            source,
            made,
            texts,
            max_new_tokens=max_new_tokens,
            on_text=on_text,
        )
    _show(found, json)
    if write_mean_to is not None:
        count = write_mean(made(), texts, write_mean_to)
        notice(f"{write_mean_to}: mean of {count} activations")
    if found.failed:
        sys.stdout.flush()
        raise SystemExit(1)


def _texts(file: Path | None, reads_storyworld: bool) -> tuple[str, ...]:
    if file is None:
        return sample_texts() if reads_storyworld else TEXTS
    texts = tuple(part.strip() for part in read_text(None, file).split("\n\n") if part.strip())
    if not texts:
        raise InputError(f"{file} has no text in it. Give at least one.")
    return texts


def _show(found: Diagnosis, json: bool) -> None:
    if json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    table = Table(pad_edge=False)
    for heading in ("check", "status", "found", "expected"):
        table.add_column(heading, ratio=1 if heading in ("found", "expected") else None)
    for check in found.checks:
        status = Text(check.status, style=STYLES[check.status])
        table.add_row(check.name, status, Text(check.found), Text(check.expected))
    console = Console()
    console.print(table)
    for check in found.checks:
        if check.advice:
            tell(f"{check.name}: {check.advice}")
