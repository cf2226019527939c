"""Finds an NLA by its path, or one in the package by name.

The package holds what a reader needs of each bundled NLA. What it is compared with (rows of other
training, its warm start, its control AR) and the logs of its run lie in `assets/` of a checkout.
"""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import NamedTuple

from nlakit.card import ADAPTER_CONFIG, CARD_NAME, check_complete
from nlakit.errors import CheckpointError, InputError

BUNDLED = "storyworld"
"""The NLA that is read where none is named: it needs nothing but the package."""
DEFAULT_NAME = "bundled"
ROWS = "rows"
WARM_START, CONTROL_AR, RUN = "warm_start", "control_ar", "run"
TRAINED = "nla"
"""Where in its directory a training run leaves the NLA."""
GROUNDED_WARM_START = "grounded-warm-start"
PLAIN_WARM_START, PLAIN_RL = "plain-warm-start", "plain-rl"
ROW_NAMES = (PLAIN_WARM_START, PLAIN_RL, GROUNDED_WARM_START)
"""Pairs trained on the way to a bundled one or without grounding, kept for comparison. Alone such a
name is the row of the storyworld's NLA; of another it is NLA/ROW."""

ASSETS_VARIABLE = "NLAKIT_ASSETS"
"""Environment variable that names the `assets/` of a checkout, for an installed package."""


class PairPaths(NamedTuple):
    """Where the parts of a pair lie.

    Attributes:
        shared: holds the target, the mean and the card.
        pair: holds `av/`, `ar/` and perhaps `control_ar/`; often the same directory.
        comparison: holds what is not in `pair`: its warm start, its control AR, the logs of its
            run; None: nothing does.
    """

    shared: Path
    pair: Path
    comparison: Path | None = None

    def part(self, name: str) -> Path | None:
        """The directory of an optional part, such as `warm_start`; None where there is none."""
        homes = (self.pair, *filter(None, [self.comparison]))
        return next((home / name for home in homes if (home / name).is_dir()), None)

    @property
    def run(self) -> Path | None:
        """The directory of the training logs; None where they are not here."""
        homes = (self.shared, *filter(None, [self.comparison, self.pair.parent.parent]))
        return next((home / RUN for home in homes if (home / RUN).is_dir()), None)


def bundled_names() -> list[str]:
    """The NLAs in the package, the default one first."""
    cards = _package().glob(f"*/{CARD_NAME}")
    return sorted((card.parent.name for card in cards), key=lambda name: (name != BUNDLED, name))


def bundled_path(name: str = BUNDLED) -> Path:
    """Where an NLA of the package lies, installed or not."""
    return _package() / name


def _package() -> Path:
    return Path(str(importlib.resources.files("nlakit"))) / "assets"


def comparison_path(name: str = BUNDLED) -> Path | None:
    """Where what a bundled NLA is compared with lies; None outside a checkout."""
    named = os.environ.get(ASSETS_VARIABLE)
    root = Path(named) if named else _package().parents[2] / "assets"
    return root / name if (root / name).is_dir() else None


def resolve(name: str | Path | None = None) -> Path:
    """The directory of an NLA, from its path or that of the run that trained it, from the name of
    one in the package, or from None or "bundled" for the default one.

    Raises:
        InputError: there is no such directory.
        CheckpointError: the directory is there, but parts of an NLA are missing.
    """
    bundled = _bundled_name(name)
    path = Path(str(name)) if bundled is None else bundled_path(bundled)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        asked = DEFAULT_NAME if name is None else str(name)
        advice = _path_advice() if bundled is None else _BUNDLED_ADVICE
        raise InputError(f"Asked for the NLA {asked!r}; found {found} at {path}. {advice}")
    if not (path / CARD_NAME).is_file() and (path / TRAINED / CARD_NAME).is_file():
        path /= TRAINED
    check_complete(path)
    return path


def _bundled_name(name: str | Path | None) -> str | None:
    """The name in the package that `name` stands for; None for a path."""
    if name is None or (isinstance(name, str) and name == DEFAULT_NAME):
        return BUNDLED
    # A path object is never a name, so a directory called "storyworld" can be reached.
    return name if isinstance(name, str) and name in {BUNDLED, *bundled_names()} else None


def resolve_pair(name: str | Path | None = None) -> PairPaths:
    """Where to read a pair from: whatever `resolve` finds, or a row beside an NLA.

    A row is `NLA/rows/NAME` with an AV and an AR of its own; `ROW_NAMES` are those of a bundled
    NLA, given as NLA/ROW, whose own warm start is the grounded one. Target, mean and card are the
    NLA's.

    Raises:
        InputError, CheckpointError: as `resolve` does; so does a row that is not there, or not
            whole.
    """
    of, _, row = str(name).rpartition("/")
    if isinstance(name, str) and row in ROW_NAMES and _bundled_name(of or None) is not None:
        return _bundled_row(_bundled_name(of or None) or BUNDLED, row)
    path = Path(str(name))
    if path.parent.name != ROWS or (path / CARD_NAME).exists():
        found, bundled = resolve(name), _bundled_name(name)
        return PairPaths(found, found, comparison_path(bundled) if bundled else None)
    return PairPaths(resolve(path.parent.parent), _whole_row(path))


def _bundled_row(nla: str, row: str) -> PairPaths:
    inside = WARM_START if row == GROUNDED_WARM_START else f"{ROWS}/{row}"
    compared = comparison_path(nla)
    if compared is None:
        raise InputError(
            f"Asked for the pair {row!r} of {nla}, which is kept for comparison; found none, since "
            "the installed package holds only what reading needs. Clone nlakit's repository, and "
            f"run there or set {ASSETS_VARIABLE} to its assets/ directory."
        )
    return PairPaths(resolve(nla), _whole_row(compared / inside))


def _whole_row(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(
            f"Asked for the pair {path.name!r}; found nothing at {path}. {_row_advice(path.parent)}"
        )
    files = ("config.json", ADAPTER_CONFIG)
    missing = [
        part for part in ("av", "ar") if not any((path / part / file).is_file() for file in files)
    ]
    if missing:
        raise CheckpointError(
            f"{path} is not a whole pair; missing: {', '.join(missing)}. Copy it again."
        )
    return path


def _row_advice(rows: Path) -> str:
    there = sorted(path.name for path in rows.iterdir() if path.is_dir()) if rows.is_dir() else []
    have = ", ".join(there) or "none"
    return f"Rows there: {have}. Give one of them, the directory of an NLA, or 'bundled'."


_BUNDLED_ADVICE = "Install nlakit again, or train it: `nlakit train recipes/storyworld.toml`."


def _path_advice() -> str:
    names = " or ".join(f"'{name}'" for name in [DEFAULT_NAME, *bundled_names()])
    return f"Give the directory of an NLA, or {names} for one that comes with nlakit."
