"""Finds an NLA by its path, or the one in the package by name.

The package holds what a reader needs of the bundled NLA. What it is compared with (rows of other
training, its warm start, its control AR) and the logs of its run lie in `assets/` of a checkout.
"""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import NamedTuple

from nlakit.card import CARD_NAME, check_complete
from nlakit.errors import CheckpointError, InputError

BUNDLED = "storyworld"
BUNDLED_NAMES = ("bundled", BUNDLED)
ROWS = "rows"
WARM_START, CONTROL_AR, RUN = "warm_start", "control_ar", "run"
GROUNDED_WARM_START = "grounded-warm-start"
PLAIN_WARM_START, PLAIN_RL = "plain-warm-start", "plain-rl"
ROW_NAMES = (PLAIN_WARM_START, PLAIN_RL, GROUNDED_WARM_START)
"""Pairs trained on the way to the bundled one or without grounding, kept for comparison."""

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


def bundled_path() -> Path:
    """Where the bundled NLA lies, installed or not."""
    return Path(str(importlib.resources.files("nlakit"))) / "assets" / BUNDLED


def comparison_path() -> Path | None:
    """Where what the bundled NLA is compared with lies; None outside a checkout."""
    named = os.environ.get(ASSETS_VARIABLE)
    root = Path(named) if named else bundled_path().parents[3] / "assets"
    return root / BUNDLED if (root / BUNDLED).is_dir() else None


def resolve(name: str | Path | None = None) -> Path:
    """The directory of an NLA, from its path, or from None or "bundled" for the one in the package.

    Raises:
        InputError: there is no such directory.
        CheckpointError: the directory is there, but parts of an NLA are missing.
    """
    # A path object is never a name, so a directory called "storyworld" can be reached.
    is_bundled = name is None or (isinstance(name, str) and name in BUNDLED_NAMES)
    path = bundled_path() if is_bundled else Path(str(name))
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        asked = "bundled" if name is None else str(name)
        advice = _BUNDLED_ADVICE if is_bundled else _PATH_ADVICE
        raise InputError(f"Asked for the NLA {asked!r}; found {found} at {path}. {advice}")
    check_complete(path)
    return path


def resolve_pair(name: str | Path | None = None) -> PairPaths:
    """Where to read a pair from: whatever `resolve` finds, or a row beside an NLA.

    A row is `NLA/rows/NAME` with an AV and an AR of its own; `ROW_NAMES` are those of the bundled
    NLA, whose own warm start is the grounded one. Target, mean and card are the NLA's.

    Raises:
        InputError, CheckpointError: as `resolve` does; so does a row that is not there, or not
            whole.
    """
    if isinstance(name, str) and name in ROW_NAMES:
        inside = WARM_START if name == GROUNDED_WARM_START else f"{ROWS}/{name}"
        return PairPaths(resolve(), _whole_row(_comparison_of_bundled(name) / inside))
    path = Path(str(name))
    if path.parent.name != ROWS or (path / CARD_NAME).exists():
        found = resolve(name)
        return PairPaths(found, found, comparison_path() if found == bundled_path() else None)
    row = _whole_row(path)
    return PairPaths(resolve(path.parent.parent), row)


def _comparison_of_bundled(name: str) -> Path:
    path = comparison_path()
    if path is None:
        raise InputError(
            f"Asked for the pair {name!r}, which is kept for comparison; found none, since the "
            "installed package holds only what reading needs. Clone nlakit's repository, and run "
            f"there or set {ASSETS_VARIABLE} to its assets/ directory."
        )
    return path


def _whole_row(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(
            f"Asked for the pair {path.name!r}; found nothing at {path}. {_row_advice(path.parent)}"
        )
    missing = [part for part in ("av", "ar") if not (path / part / "config.json").is_file()]
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
_PATH_ADVICE = "Give the directory of an NLA, or 'bundled' for the one that comes with nlakit."
