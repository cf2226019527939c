"""What is in the package, what lies beside it, and what is said where it does not."""

from __future__ import annotations

import pytest

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


def test_a_pair_s_own_part_comes_before_the_one_kept_elsewhere(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for home in (own, other):
        (home / "control_ar").mkdir(parents=True)
    assert PairPaths(own, own, other).part("control_ar") == own / "control_ar"
