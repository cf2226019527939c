"""Finds an NLA by its path, or the one in the package by name."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from nlakit.card import check_complete
from nlakit.errors import InputError

BUNDLED = "storyworld"
BUNDLED_NAMES = ("bundled", BUNDLED)


def bundled_path() -> Path:
    """Where the bundled NLA lies, installed or not."""
    return Path(str(importlib.resources.files("nlakit"))) / "assets" / BUNDLED


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


_BUNDLED_ADVICE = "Install nlakit again, or make it: `nlakit train recipes/storyworld.toml`."
_PATH_ADVICE = "Give the directory of an NLA, or 'bundled' for the one that comes with nlakit."
