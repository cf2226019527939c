"""Whether a run gave the weights and figures of the package: what counts as the same."""

from __future__ import annotations

import copy
import json

import pytest
from benchmarks.replication import compare, told

REPORT = {
    "nla": "x", "documents": 8, "seed": 1, "temperature": 0.0, "fve": 0.5, "notes": ["as it is"],
    "claims": {"precision": 0.75, "per_kind": {"goal": None, "sum": 0.25}}, "suspicious": False,
    "weights": {"av": "aa", "ar": "bb"},
}  # fmt: skip


def changed(**parts):
    return {**copy.deepcopy(REPORT), **parts}


def test_equal_reports_are_equal_in_every_number():
    found = compare(REPORT, changed())
    assert (found["figures"], found["equal"], found["furthest"]) == (6, 6, 0)
    assert found["weights"] == {"av": True, "ar": True}


def test_another_weight_and_another_number_are_told():
    other = changed(weights={"av": "aa", "ar": "cc"}, fve=0.4)
    found = compare(REPORT, other)
    assert found["weights"] == {"av": True, "ar": False}
    assert found["equal"] == 5 and found["furthest"] == pytest.approx(0.2)
    text = told(json.dumps(found))
    assert "1 of 2 weight files" in text and "not ar." in text and "5 of the report's 6" in text


def test_a_missing_weight_is_another_one():
    assert compare(REPORT, changed(weights={"av": "aa"}))["weights"]["ar"] is False


def test_reports_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="differ in one of"):
        compare(REPORT, changed(documents=9))
    with pytest.raises(ValueError, match="one report alone"):
        compare(REPORT, changed(claims={"precision": 0.75}))
