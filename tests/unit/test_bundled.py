"""The NLA in the package: whole, small, and with a report that is its own."""

from pathlib import Path

import pytest

from nlakit.card import read_card
from nlakit.config import parse_config
from nlakit.evals.pair import weight_hashes
from nlakit.evals.report import read_report
from nlakit.registry import resolve
from nlakit.train.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "storyworld.toml"


@pytest.fixture(scope="module")
def report():
    return read_report(resolve("bundled") / "report.json")


def test_report_belongs_to_the_shipped_weights(report):
    assert len(report.weights) == 10  # six models, three heads, the mean
    assert report.weights == weight_hashes(resolve("bundled"))


def test_card_says_what_the_report_says(report):
    card = read_card(resolve("bundled"))
    assert card.fve == report.fve
    assert card.floors == report.floors.model_dump()


def test_shipped_recipe_is_the_one_that_made_it():
    kept = parse_config(Recipe, resolve("bundled") / "run" / "recipe.toml", [])
    assert kept == parse_config(Recipe, RECIPE, [])


def test_bundle_is_under_its_limit():
    size = sum(path.stat().st_size for path in resolve("bundled").rglob("*") if path.is_file())
    assert size < 60_000_000


def test_report_is_a_measurement_worth_the_name(report):
    assert report.documents >= 2000
    assert report.fve_warm_start is not None
    assert report.fve > max(report.floors.model_dump().values()) + 0.2
    low, high = report.fve_interval
    assert low < report.fve < high
    assert len(report.samples) == 30
