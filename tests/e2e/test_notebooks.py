"""The notebooks of the docs run from top to bottom, and say what they say they say."""

from __future__ import annotations

import pytest
from support.docs import NOTEBOOKS, REAL_MODEL, run_notebook

OFFLINE = [path for path in NOTEBOOKS if path.stem != REAL_MODEL]


@pytest.mark.e2e
@pytest.mark.parametrize("path", OFFLINE, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    run_notebook(path)
    assert capsys.readouterr().out.strip()
