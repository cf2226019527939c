"""The commands that the pages in docs/ tell a reader to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str) -> list[list[str]]:
    """Arguments of every `$ nlakit …` in the page's console blocks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines and all(line.startswith("$ nlakit ") for line in lines)
    return [shlex.split(line.removeprefix("$ nlakit ")) for line in lines]
