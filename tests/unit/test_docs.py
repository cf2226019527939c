"""The README says what the committed result files say, and shows code at once."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REPORT = {
    "documents": 2000,
    "seed": 7,
    "fve": 0.7124,
    "fve_interval": [0.70, 0.72],
    "fve_warm_start": 0.6,
    "fve_frozen_ar": None,
    "floors": {"mean": -0.126, "shuffled": -0.9},
    "claims": {
        "precision": 0.655,
        "recall": 0.5,
        "checked": 9000,
        "per_kind": {"mood": {"precision": 0.8, "recall": None}},
    },
    "probes": {"topic": {"linear": 0.7, "mlp": 0.8, "chance": 0.125}},
}


@pytest.fixture(scope="module")
def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(render, tmp_path, monkeypatch) -> Path:
    """Result files of our own, in place of the committed ones."""
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "output.txt").write_text("a line\n")
    made = {
        "output": (tmp_path / "output.txt", render.printed),
        "figures": (tmp_path / "report.json", render.figures),
        "three_figures": (tmp_path / "report.json", render.three_figures),
    }
    monkeypatch.setattr(render, "SOURCES", made)
    return tmp_path


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_fresh(render):
    if render.REPORT.is_file():
        assert render.OUTPUT.is_file(), "run: python docs/render.py --refresh"
        assert "```text" in readme()
    assert render.main(["--check"]) == 0


def test_code_comes_within_the_first_eighty_words(render):
    assert len(readme().partition("```python")[0].split()) < 80
    lines = [line for line in render.snippet(readme()).splitlines() if line]
    assert len(lines) <= 6
    compile(render.snippet(readme()), "README.md", "exec")


def test_figures_are_rounded_and_missing_ones_are_dashes(render, sources):
    page = render.render((ROOT / "docs" / "results-storyworld.md").read_text(encoding="utf-8"))
    assert "| after RL and settling, with 95 % interval | **0.71** [0.70, 0.72] |" in page
    assert "| floor: the mean activation | −0.13 |" in page
    assert "| mood | 0.80 | – | – | – | – |" in page
    assert "| topic | – | – | 0.70 | 0.80 | 0.12 |" in page
    assert "2,000 held-out documents (seed 7)" in page


def test_readme_has_three_figures_and_few_words(render, sources):
    page = render.render(readme())
    assert "(best floor −0.13) | **0.71** [0.70, 0.72] |" in page
    assert "| claims that are true, of 9,000 | **66 %** |" in page
    prose = re.sub(r"(?s:```.*?```|<!--.*?-->)|(?m:^\|.*$)", "", readme())
    assert prose.rstrip().endswith("Apache-2.0.") and len(prose.split()) <= 600


def test_rendering_twice_changes_nothing(render, sources):
    once = render.render(readme())
    assert "```text\na line\n```" in once
    assert render.render(once) == once


def test_a_block_without_its_file_stays(render, sources):
    once = render.render(readme())
    (sources / "report.json").unlink()
    assert render.render(once) == once


def test_stale_pages_are_found(render, sources, tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- begin: output -->\nold\n<!-- end: output -->\n")
    monkeypatch.setattr(render, "README", page)
    monkeypatch.setattr(render, "DOCS", tmp_path)
    assert render.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert render.main([]) == 0
    assert render.main(["--check"]) == 0
    assert render.main(["--bogus"]) == 2


def test_an_evaluation_is_shown_with_its_floors_and_warnings(render):
    figure = {"value": -0.25, "interval": [-0.3, -0.2]}
    section = {
        "name": "cause",
        "title": "",
        "about": "",
        "nla": "n",
        "documents": 30,
        "rows": 1200,
        "seed": 5,
        "temperature": 0.0,
        "lines": [
            {"name": "explanation", "figures": {"KL": {"value": 0.5}}},
            {"name": "mean", "figures": {"FVE": figure}, "floor": True},
        ],
        "suspicions": ["It seems to cheat."],
    }
    page = render.section_table(json.dumps(section))
    assert page.splitlines() == [
        "1,200 positions in 30 documents, seed 5:",
        "",
        "| | KL | FVE |",
        "|---|---:|---:|",
        "| explanation | 0.500 | – |",
        "| *mean* | – | −0.250 [−0.300, −0.200] |",
        "",
        "- It seems to cheat.",
    ]


def test_a_bin_stands_where_its_claims_are_true(render):
    lines = [
        {"name": "confidence", "figures": {"ECE": {"value": 0.1}}},
        {
            "name": "confidence 0.4 to 0.5",
            "figures": {
                name: {"value": value}
                for name, value in (("confidence", 0.5), ("accuracy", 1.0), ("claims", 99))
            },
        },
    ]
    common = {"documents": 1, "rows": 1, "seed": 1, "temperature": 0.0}
    section = {"name": "", "title": "", "about": "", "nla": "", **common, "lines": lines}
    plot = render.reliability_plot(json.dumps(section))
    assert plot.count("<circle") == 1
    assert '<circle cx="160.0" cy="44.0" r="6.0"' in plot
