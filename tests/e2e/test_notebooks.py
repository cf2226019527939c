"""The notebooks of the docs run from top to bottom, and say what they say they say."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.py"))


@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    notebook = jupytext.read(path)
    names: dict[str, object] = {"__name__": "__main__"}
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 3 and notebook.cells[0].source.startswith("# ")
    for number, source in enumerate(code):
        exec(compile(source, f"{path.name}[{number}]", "exec"), names)
    assert capsys.readouterr().out.strip()
