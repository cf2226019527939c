"""sdist → wheel → an environment with nothing else → `nlakit demo`: as a reader does (minutes)."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import nlakit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.wheel


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, in an environment that knows nothing of this checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = kept | {"NO_COLOR": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found.stdout


def python_of(directory: Path) -> Path:
    """A new environment with pip and nothing else; its Python."""
    venv.create(directory, with_pip=True)
    return directory / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """Directory with the programs of an environment into which only the wheel was installed."""
    home = tmp_path_factory.mktemp("wheel")
    builder = python_of(home / "builder")
    run(builder, "-m", "pip", "install", "-q", "build", cwd=home)
    # Without --wheel or --sdist the wheel is built from the sdist, and from nothing else.
    run(builder, "-m", "build", ROOT, "--outdir", home / "dist", cwd=home)
    (wheel,) = (home / "dist").glob("*.whl")
    python = python_of(home / "bare")
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", constraints, wheel, cwd=home)
    return python.parent


def test_a_bare_environment_reads_three_passages(bare, tmp_path):
    said = " ".join(run(bare / "nlakit", "demo", cwd=tmp_path).split())
    assert "A rhyme that is planned" in said and "A story" in said and "faithful" in said


def test_it_has_the_version_the_page_and_the_types(bare, tmp_path):
    assert run(bare / "nlakit", "--version", cwd=tmp_path).strip() == nlakit.__version__
    script = (
        "import nlakit, pathlib; home = pathlib.Path(nlakit.__file__).parent; "
        "print(home, *[home.joinpath(each).is_file() for each in "
        "('py.typed', 'serve/static/index.html', 'serve/openapi.json')])"
    )
    home, *found = run(bare / "python", "-c", script, cwd=tmp_path).split()
    assert found == ["True"] * 3 and not Path(home).is_relative_to(ROOT / "src")
