"""The list of fixes that are undone fits the sources, and what is kept says the same of each."""

from __future__ import annotations

import json

import pytest
from benchmarks.mutations import MUTATIONS, PACKAGE, RESULTS, ROOT, table


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.fix)
def test_each_fix_stands_once_in_the_sources(mutation):
    assert (ROOT / PACKAGE / mutation.path).read_text("utf-8").count(mutation.old) == 1
    path, _, test = mutation.test.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text("utf-8")


def test_those_that_were_run_were_noticed():
    kept = json.loads(RESULTS.read_text("utf-8"))
    listed = {mutation.fix: mutation.test for mutation in MUTATIONS}
    assert kept and all(row["noticed"] for row in kept)
    assert {row["fix"]: row["test"] for row in kept}.items() <= listed.items()


def test_one_that_is_missed_stands_out():
    text = table(json.dumps([{"fix": "a", "test": "tests/b.py::test_c", "noticed": False}]))
    assert "| a | `b.py::test_c` | NO |" in text
