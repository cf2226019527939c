"""What is in the package, what lies beside it, and what is said where it does not."""

from __future__ import annotations

import pytest

from nlakit import registry
from nlakit.errors import InputError
from nlakit.registry import (
    ASSETS_VARIABLE,
    ROW_NAMES,
    PairPaths,
    bundled_path,
    resolve,
    resolve_pair,
)

READER_NEEDS = {"target", "av", "ar", "nla.json", "mean.safetensors", "calibrator.json"}


def test_package_holds_what_reading_needs_and_no_comparison_rows():
    found = {path.name for path in bundled_path().iterdir()}
    assert found >= READER_NEEDS
    assert not found & {"rows", "warm_start", "control_ar", "run"}


def test_a_checkout_finds_what_the_bundled_pair_is_compared_with():
    paths = resolve_pair()
    warm = paths.part("warm_start")
    assert paths.pair == paths.shared == resolve()
    assert warm is not None and not warm.is_relative_to(bundled_path())
    assert paths.run is not None and (paths.run / "recipe.toml").is_file()


@pytest.mark.parametrize("row", ROW_NAMES)
def test_without_a_checkout_a_row_says_where_to_get_it(row, monkeypatch, tmp_path):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=rf"'{row}'.*Clone.*{ASSETS_VARIABLE}"):
        resolve_pair(row)


def test_without_a_checkout_the_bundled_pair_has_no_parts_to_compare(monkeypatch, tmp_path):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    paths = resolve_pair("bundled")
    assert paths.part("warm_start") is None
    assert paths.run is None


def test_the_directory_of_a_run_stands_for_the_nla_that_it_left(tmp_path):
    (tmp_path / "nla").symlink_to(bundled_path())
    assert resolve(tmp_path) == resolve_pair(tmp_path).pair == tmp_path / "nla"


def test_a_pair_s_own_part_comes_before_the_one_kept_elsewhere(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for home in (own, other):
        (home / "control_ar").mkdir(parents=True)
    assert PairPaths(own, own, other).part("control_ar") == own / "control_ar"


# -- several NLAs in the package -------------------------------------------------------------------
@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two NLAs, of which one is of adapters, and a checkout beside it."""
    home, assets = tmp_path / "package", tmp_path / "assets"
    for name, file in (("storyworld", "config.json"), ("real", "adapter_config.json")):
        for part in ("av", "ar"):
            write(home / name / part / file)
            write(assets / name / "warm_start" / part / file)
            write(assets / name / "rows" / "plain-rl" / part / file)
        for file in ("nla.json", "mean.safetensors", "target/config.json"):
            write(home / name / file)
    monkeypatch.setattr(registry, "_package", lambda: home)
    monkeypatch.setenv(ASSETS_VARIABLE, str(assets))
    return home, assets


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def test_every_nla_of_the_package_has_its_name_and_its_rows(package):
    home, assets = package
    assert registry.bundled_names() == ["storyworld", "real"]
    assert resolve() == resolve("bundled") == home / "storyworld"
    assert resolve_pair("real") == PairPaths(home / "real", home / "real", assets / "real")
    rows = {name: resolve_pair(f"real/{name}").pair for name in ("plain-rl", "grounded-warm-start")}
    assert rows["plain-rl"] == assets / "real" / "rows" / "plain-rl"
    assert rows["grounded-warm-start"] == assets / "real" / "warm_start"
    assert resolve_pair("real/plain-rl").shared == home / "real"
    assert resolve_pair("plain-rl") == resolve_pair("storyworld/plain-rl")
    assert resolve_pair("plain-rl").pair == assets / "storyworld" / "rows" / "plain-rl"


def test_a_name_that_is_not_known_is_answered_with_those_that_are(package):
    with pytest.raises(InputError, match="'bundled' or 'storyworld' or 'real'"):
        resolve_pair("unknown")
    with pytest.raises(InputError, match="found nothing at .*Rows there: plain-rl"):
        resolve_pair("real/plain-warm-start")
