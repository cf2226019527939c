"""The committed report of the attacks is whole, and names tests that exist."""

from __future__ import annotations

import json
import re

import pytest
from benchmarks.attack_table import FILES, FINDINGS, MUTATIONS, REQUESTS
from benchmarks.attacks import RESULTS, ROOT, violations

PROBES = {**FILES, **REQUESTS}


@pytest.fixture(scope="module")
def found():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PROBES)
def test_a_finding_is_shown_on_the_base_and_held_now(found, name):
    old, new = (found["probes"][name][each] for each in ("old", "new"))
    assert (old["held"], new["held"]) == (False, True)
    assert "AssertionError" not in old["said"]  # of the probe, which then shows nothing


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fix_is_missed_by_its_test(found, name):
    assert found["mutations"][name]["failed"]


def test_the_report_is_of_these_findings(found):
    assert (set(found["probes"]), set(found["mutations"])) == (set(PROBES), set(MUTATIONS))
    assert FINDINGS["breaking"] <= REQUESTS.keys()
    assert violations(found) == []


@pytest.mark.parametrize("finding", [*PROBES.values(), *MUTATIONS.values()])
def test_the_tests_that_are_named_exist(finding):
    for part in finding.test.split(", "):
        file, _, name = part.removeprefix("tests/").partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), part


def test_a_finding_that_the_base_does_not_have_is_a_violation():
    probes = {"a": {"old": {"held": True}, "new": {"held": True}}, "b": {"new": {"held": False}}}
    said = violations({"probes": probes, "mutations": {"c": {"failed": False}}})
    assert said == ["a: old holds", "b: new does not hold", "c: the test passes without the fix"]
