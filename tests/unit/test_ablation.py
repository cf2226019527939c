"""The ablation's rows and their table."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.ablation import VARIANTS, Variant
from benchmarks.ablation_rows import Ablation, Row, read_ablation, table

from nlakit.config import parse_config
from nlakit.errors import CheckpointError, InputError
from nlakit.train.config import GroundedRlConfig
from nlakit.worlds.storyworld.recipe import StoryworldRecipe

ROW = Row(
    terms="+ judge", changes=("reword_share=0.0",), fve=0.7, fve_interval=(0.68, 0.72),
    fve_control_ar=None, precision=0.956, recall=0.5, readable_recall=0.9, abstained=0.25,
    tokens=31.26, paraphrase_kept=-0.5,
)  # fmt: skip
ABLATION = Ablation(
    recipe="storyworld", steps=60, documents=1000, seed=7, temperature=0.0, rows=(ROW,)
)


def keys(variant: Variant) -> set[str]:
    return {change.partition("=")[0] for change in variant.changes}


def test_variants_of_terms_that_rl_has_are_recipes_that_differ_in_the_reward_alone():
    path = Path(__file__).parents[2] / "recipes" / "storyworld.toml"
    recipe = parse_config(StoryworldRecipe, path, [])
    there = [each for each in VARIANTS if keys(each) <= GroundedRlConfig.model_fields.keys()]
    assert {"reconstruction", "judge", "reworded", "no-length"} <= {each.name for each in there}
    for each in there:
        made = parse_config(StoryworldRecipe, path, each.overrides)
        assert made.grounded_rl is not None and recipe.grounded_rl is not None
        assert made.grounded_rl.precision_slack == 1.0
        same = {key: getattr(recipe.grounded_rl, key) for key in ("precision_slack", *keys(each))}
        assert made.grounded_rl.model_copy(update=same) == recipe.grounded_rl
        assert made.model_copy(update={"grounded_rl": recipe.grounded_rl}) == recipe


def test_a_row_is_a_line_and_what_is_missing_a_dash():
    text = table(ABLATION.model_dump_json())
    assert "60 steps each from the same start; 1,000 held-out documents (seed 7)" in text
    assert (
        "| + judge | 0.700 [0.680, 0.720] | – | 0.956 | 0.500 | 0.900 | 0.250 | 31.3 | −0.500 |"
        in text
    )
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {10}


def test_rows_of_other_conditions_are_not_mixed():
    fresh = ABLATION.model_copy(update={"rows": ()})
    assert fresh.joined(None).rows == ()
    assert fresh.joined(ABLATION).row("+ judge") == ROW
    assert ABLATION.row("reconstruction") is None
    with pytest.raises(InputError, match="steps 60 there, 80 asked for"):
        fresh.model_copy(update={"steps": 80}).joined(ABLATION)


def test_another_file_is_refused_by_name(tmp_path):
    path = tmp_path / "ablation.json"
    assert read_ablation(path) is None
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="recipe: required"):
        read_ablation(path)
