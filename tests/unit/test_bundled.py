"""The NLA in the package: whole, small, and with a report that is its own."""

from itertools import chain, islice
from pathlib import Path

import pytest

from nlakit.card import read_card
from nlakit.config import parse_config
from nlakit.contract import measure_tokens, read_meta, render_ar
from nlakit.evals.report import read_report
from nlakit.models.io import load_tokenizer
from nlakit.pair.source import find_pair, pair_hashes
from nlakit.registry import comparison_path, resolve
from nlakit.storyworld.grammar import generate
from nlakit.storyworld.teacher import label
from nlakit.worlds.storyworld.recipe import StoryworldRecipe

RECIPE = Path(__file__).parents[2] / "recipes" / "storyworld.toml"


@pytest.fixture(scope="module")
def report():
    return read_report(resolve("bundled") / "report.json")


def test_report_belongs_to_the_shipped_weights(report):
    assert len(report.weights) == 10  # six models, three heads, the mean
    assert report.weights == pair_hashes(find_pair("bundled"))


def test_card_says_what_the_report_says(report):
    card = read_card(resolve("bundled"))
    assert card.fve == report.fve
    assert card.floors == report.floors.model_dump()


def test_shipped_recipe_is_the_one_that_made_it():
    kept = parse_config(StoryworldRecipe, comparison_path() / "run" / "recipe.toml", [])
    assert kept == parse_config(StoryworldRecipe, RECIPE, [])


def test_ar_prompts_are_those_it_was_trained_on():
    """In pieces or as one string: its tags are tokens of their own, so nothing merges."""
    directory = resolve("bundled") / "ar"
    meta, tokenizer = read_meta(directory), load_tokenizer(directory)
    before, _, after = (meta.prompt_templates.ar or "").partition("{explanation}")
    prompt = render_ar(meta, tokenizer)
    for document in islice(generate(5, "heldout"), 200):
        text = label(document, len(document.text) // 2).text
        pieces = [
            tokenizer.encode(part, add_special_tokens=False) for part in (before, text, after)
        ]
        assert prompt.encode(text) == [tokenizer.bos_token_id, *chain.from_iterable(pieces)]
    templates = meta.prompt_templates.av, meta.prompt_templates.ar
    assert measure_tokens(tokenizer, meta.tokens.injection_char, *templates) == meta.tokens


def test_bundle_is_under_its_limit():
    size = sum(path.stat().st_size for path in resolve("bundled").rglob("*") if path.is_file())
    assert size < 18_000_000  # comparison rows and logs stay out of the wheel


def test_report_is_a_measurement_worth_the_name(report):
    assert report.documents >= 2000
    assert report.fve_warm_start is not None
    assert report.fve > max(report.floors.model_dump().values()) + 0.2
    low, high = report.fve_interval
    assert low < report.fve < high
    assert len(report.samples) == 30
