"""The one-file recipe learns: its warm start beats the floors on documents it has not seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(r"(\w+) +(-?\d+\.\d+)")

pytestmark = pytest.mark.e2e


def stages() -> dict[str, dict[str, float]]:
    """Figures that `minimal.py --quick` prints, by stage."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "minimal.py"), "--quick"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    lines = [line for line in result.stdout.splitlines() if " fve " in line]
    return {
        line[:12].strip(): {name: float(value) for name, value in FIGURE.findall(line[12:])}
        for line in lines
    }


def test_minimal_learns_and_fits_on_a_page_or_five():
    found = stages()
    warm = found["warm start"]
    assert warm["fve"] > 0.4
    assert all(warm[floor] < 0.1 for floor in ("mean", "shuffled", "empty", "zero_vector"))
    assert found["untrained"]["fve"] < 0 < found["joint RL"]["fve"]
    source = (ROOT / "recipes" / "minimal.py").read_text(encoding="utf-8")
    assert source.count("\n") <= 300
