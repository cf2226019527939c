"""The commands that the pages in docs/ tell a reader to type, and the notebooks among them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jupytext

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
REAL_MODEL = "real_model"
"""The notebook that needs SmolLM2, which a tier of its own downloads."""


def run_notebook(path: Path) -> None:
    """Its cells of code, from top to bottom."""
    notebook = jupytext.read(path)
    names: dict[str, object] = {"__name__": "__main__"}
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 3 and notebook.cells[0].source.startswith("# ")
    for number, source in enumerate(code):
        exec(compile(source, f"{path.name}[{number}]", "exec"), names)


def commands(page: str) -> list[list[str]]:
    """Arguments of every `$ nlakit …` in the page's console blocks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines and all(line.startswith("$ nlakit ") for line in lines)
    return [shlex.split(line.removeprefix("$ nlakit ")) for line in lines]
