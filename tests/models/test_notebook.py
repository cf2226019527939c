"""The notebook of the real model, which its package brings as a file."""

from __future__ import annotations

import pytest
from support.docs import NOTEBOOKS, REAL_MODEL, run_notebook
from support.real_models import RealModel

from nlakit.models.hub import INSTALLED

pytestmark = pytest.mark.models


def test_the_notebook_of_the_real_model_runs(smollm2: RealModel, tmp_path, monkeypatch, capsys):
    (name, file) = INSTALLED["HuggingFaceTB/SmolLM2-135M-Instruct"]
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / file).symlink_to(smollm2.gguf)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("NLAKIT_CACHE", str(tmp_path / "cache"))
    (path,) = (path for path in NOTEBOOKS if path.stem == REAL_MODEL)
    run_notebook(path)
    assert "'true'" in capsys.readouterr().out
