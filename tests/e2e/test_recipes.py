"""Recipes from nothing to a pair: the smoke path beats every floor; a killed run loses nothing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nlakit.config import parse_config
from nlakit.train.recipe import Recipe

pytestmark = pytest.mark.e2e

RECIPES = Path(__file__).parents[2] / "recipes"
SMOKE = RECIPES / "smoke.toml"
# Those of released models are `unit/test_plan.py`'s.
STORYWORLD = sorted(p for p in RECIPES.glob("*.toml") if "\ncheckpoint =" not in p.read_text())

MICRO = (
    "checkpoint_every=3", "target.steps=12", "target.probe_every=12", "target.hidden_size=48",
    "target.tokenizer_documents=100", "target.vocab_size=640", "target.batch_size=4",
    "extraction.documents=80", "verbalizer.steps=4", "verbalizer.batch_size=8",
    "verbalizer.held_out=16", "reconstructor.steps=4", "reconstructor.batch_size=8",
    "reconstructor.held_out=16", "rl.steps=8", "rl.vectors=2", "rl.group=2",
    "rl.max_new_tokens=12", "rl.evaluate_every=4", "rl.evaluation_documents=8",
)  # fmt: skip


def start(output: Path, *overrides: str, recipe: Path = SMOKE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nlakit", "train", str(recipe), *overrides]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([*command, "--output", str(output)], env=environment)


def kill_after(process: subprocess.Popen[bytes], log: Path, num_lines: int) -> None:
    """SIGKILL the run as soon as a stage has logged so many steps."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= num_lines:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def weights(pair: Path) -> dict[str, str]:
    files = sorted(pair.rglob("*.safetensors"))
    return {str(f.relative_to(pair)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("path", STORYWORLD, ids=lambda path: path.stem)
def test_shipped_recipes_parse(path):
    recipe = parse_config(Recipe, path, ["seed=3"])
    assert recipe.seed == 3
    assert recipe.extraction.layer < recipe.target.num_layers


def test_killed_run_ends_as_the_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, *MICRO).wait() == 0
    kill_after(start(killed, *MICRO), killed / "1-target" / "metrics.jsonl", 5)
    kill_after(start(killed, *MICRO), killed / "5-rl" / "metrics.jsonl", 6)
    assert start(killed, *MICRO).wait() == 0
    assert len(weights(whole / "nla")) == 9  # five models, two heads, the mean, the probes
    assert weights(killed / "nla") == weights(whole / "nla")


def test_smoke_recipe_beats_every_floor(tmp_path):
    assert start(tmp_path).wait() == 0
    command = [sys.executable, "-m", "nlakit", "eval", "storyworld", "--nla", str(tmp_path / "nla")]
    answer = subprocess.run(
        [*command, "--documents", "64", "--seed", "7", "--json"], capture_output=True, check=True
    )
    report = json.loads(answer.stdout)
    assert set(report["floors"]) == {"mean", "shuffled", "empty", "generic", "zero_vector"}
    assert report["fve"] > max(report["floors"].values()) + 0.1
    assert report["documents"] == 64
