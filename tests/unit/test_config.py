"""Recipes: what is merged, what is refused, what comes back from disk."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from nlakit.config import FrozenModel, load_toml, parse_config, validate_json, write_resolved
from nlakit.errors import ConfigError, ContractError, MissingExtraError, UserError


class Optimizer(FrozenModel):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Recipe(FrozenModel):
    name: str
    num_steps: int = 10
    limit: int | None = 5
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()


class Site(FrozenModel):
    layer: int
    stream: str


def test_overrides_are_toml_values_and_else_strings(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text('name = "a"\n[optimizer]\nlearning_rate = 0.1\n')
    raw = load_toml(path, ["name=two words", "num_steps=3", "optimizer.betas=[0.5, 0.6]"])
    optimizer = {"learning_rate": 0.1, "betas": [0.5, 0.6]}
    assert raw == {"name": "two words", "num_steps": 3, "optimizer": optimizer}


def test_value_with_a_newline_cannot_smuggle_in_a_key():
    assert load_toml(None, ["name=1\nnum_steps = 2"]) == {"name": "1\nnum_steps = 2"}


def test_later_overrides_win_and_equals_signs_stay_in_the_value():
    assert load_toml(None, ["name=a", "name=b=c"]) == {"name": "b=c"}


@pytest.mark.parametrize("pair", ["num_steps", "=3", "optimizer..betas=1", "name.x=1"])
def test_override_that_cannot_be_placed_is_refused(pair):
    with pytest.raises(ConfigError, match="override"):
        load_toml(None, ["name=a", pair])


def test_typo_names_key_value_and_likely_key():
    with pytest.raises(ConfigError) as caught:
        parse_config(Recipe, None, ["name=a", "optimizer.learning_rat=2"])
    message = str(caught.value)
    assert "optimizer.learning_rat: unknown key, found 2" in message
    assert "Did you mean 'learning_rate'?" in message


def test_every_wrong_key_is_listed_with_its_value():
    with pytest.raises(ConfigError) as caught:
        parse_config(Recipe, None, ["num_steps=many", "stages=[{beta=[1, 2]}]"])
    message = str(caught.value)
    assert "name: required" in message
    assert "num_steps: found 'many'" in message
    assert "stages.0.beta" in message and "'betas'" in message


def test_missing_and_broken_files_are_refused(tmp_path: Path):
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_toml(broken)
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load_toml(tmp_path / "missing.toml")


def test_resolved_config_reads_back_equal_and_leaves_no_temporary(tmp_path: Path):
    recipe = Recipe(name='a "b"\n', stages=(Optimizer(learning_rate=1e-7),))
    write_resolved(recipe, tmp_path / "run" / "config.toml")
    assert parse_config(Recipe, tmp_path / "run" / "config.toml") == recipe
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


def test_none_that_toml_would_turn_into_a_default_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="without loss"):
        write_resolved(Recipe(name="a", limit=None), tmp_path / "config.toml")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_value_errors_and_carry_their_parts():
    error = ContractError(field="d_model", found=8, expected=16)
    assert isinstance(error, UserError) and isinstance(error, ValueError)
    assert str(error) == "nla_meta.yaml: d_model: found 8, expected 16."
    assert "pip install 'nlakit[vllm]'" in str(MissingExtraError("vllm", "vllm"))


def test_errors_of_json_hold_what_was_given_once():
    with pytest.raises(pydantic.ValidationError) as found:
        validate_json(Site, '{"unknown": [{}, {}]}')
    given = [each["input"] for each in found.value.errors() if each["type"] == "missing"]
    assert len(given) == 2 and given[0] is given[1]


def test_json_is_a_model_or_an_error_that_names_it():
    assert validate_json(Recipe, b'{"name": "a", "stages": [{"betas": [0, 1]}]}') == Recipe(
        name="a", stages=(Optimizer(betas=(0, 1)),)
    )
    for text in ("{", "", "[" * 5000, '{"name": "\\ud83d"}'):
        with pytest.raises(pydantic.ValidationError, match="json_invalid"):
            validate_json(Recipe, text)
