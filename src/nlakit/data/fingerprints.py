"""Telling files apart without reading all of them."""

from __future__ import annotations

from pathlib import Path

EDGE_BYTES = 65_536


def edges(path: Path) -> bytes:
    """The name, the size, the beginning and the end of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(EDGE_BYTES)
        file.seek(max(0, size - EDGE_BYTES))
        return f"{path.name} {size} ".encode() + head + file.read()
