"""Shipped recipes parse, and half of the smoke one makes a pair that beats every floor."""

import json

import pytest
from support.recipes import RECIPES, start

from nlakit.config import parse_config
from nlakit.worlds.storyworld.recipe import StoryworldRecipe

pytestmark = pytest.mark.e2e

# Those of released models are `unit/test_plan.py`'s, those of SAEs `unit/test_sae_train.py`'s, and
# those of model organisms `unit/test_audit_game.py`'s.
STORYWORLD = sorted(
    path
    for path in RECIPES.glob("*.toml")
    if "\ncheckpoint =" not in (text := path.read_text()) and "\nkind = " not in "\n" + text
)

HALF = (
    "target.steps=140", "extraction.documents=700", "verbalizer.steps=125",
    "reconstructor.steps=125", "rl.steps=2", "rl.evaluate_every=2",
    "rl.evaluation_documents=32", "report.documents=64", "report.probe_rows=1000",
)  # fmt: skip


@pytest.mark.parametrize("path", STORYWORLD, ids=lambda path: path.stem)
def test_shipped_recipes_parse(path):
    recipe = parse_config(StoryworldRecipe, path, ["seed=3"])
    assert recipe.seed == 3
    assert recipe.extraction.layer < recipe.target.num_layers


@pytest.mark.smoke
def test_half_of_the_smoke_recipe_beats_every_floor(tmp_path):
    assert start(tmp_path, *HALF).wait() == 0
    report = json.loads((tmp_path / "nla" / "report.json").read_text())
    assert set(report["floors"]) == {"mean", "shuffled", "empty", "generic", "zero_vector"}
    assert report["fve"] > max(report["floors"].values()) + 0.1
    assert report["documents"] == 64
