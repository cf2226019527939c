"""Recipes run as a user would, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
SMOKE = RECIPES / "smoke.toml"


def start(output: Path, *overrides: str, recipe: Path = SMOKE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nlakit", "train", str(recipe), *overrides]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([*command, "--output", str(output)], env=environment)
