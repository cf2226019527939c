"""What goes into the wheel and the sdist, as hatchling would choose it; nothing is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from nlakit.registry import bundled_names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel() -> dict[str, Path]:
    """Files of the wheel by their path in it."""
    found = WheelBuilder(str(ROOT)).recurse_included_files()
    return {each.distribution_path: Path(each.path) for each in found}


def test_the_wheel_has_what_a_reader_needs(wheel):
    needed = {"py.typed", "serve/openapi.json", "serve/static/index.html", "serve/static/docs.css"}
    for name in bundled_names():
        needed |= {f"assets/{name}/nla.json", f"assets/{name}/av/nla_meta.yaml"}
    assert {f"nlakit/{each}" for each in needed} <= wheel.keys()


def test_the_page_in_the_wheel_has_every_file_that_it_names(wheel):
    page = wheel["nlakit/serve/static/index.html"].read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert named and {f"nlakit/serve/static/{each}" for each in named} <= wheel.keys()


def test_the_wheel_has_the_package_alone_and_is_no_larger_than_promised(wheel):
    assert {path.split("/")[0] for path in wheel} == {"nlakit"}
    assert not any("/rows/" in path or "/run/" in path for path in wheel)
    assert sum(path.stat().st_size for path in wheel.values()) < 75_000_000


def test_the_sdist_can_build_the_wheel_and_run_the_tests(wheel):
    found = {each.distribution_path for each in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {f"src/{path}" for path in wheel} <= found
    assert {"tests/unit/test_wheel_files.py", "recipes/storyworld.toml", "Makefile"} <= found
