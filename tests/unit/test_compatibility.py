"""The compatibility page says what the tests are today."""

from __future__ import annotations

import json
import re

import pytest
from benchmarks.compatibility import AREAS, RESULTS, ROOT, collected, table


def test_rows_are_the_tests_that_stand_in_the_files():
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert kept.keys() == AREAS.keys()
    for area, paths in AREAS.items():
        sources = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths)
        assert {row["test"] for row in kept[area]} == set(
            re.findall(r"^def (test_\w+)", sources, re.M)
        )


@pytest.mark.parametrize("failed", [0, 1])
def test_a_row_stands_only_if_all_its_cases_passed(failed):
    rows = collected(
        [("test_a_pair", False), ("test_b[x-1]", False), ("test_b[x-2]", bool(failed))]
    )
    text = table(json.dumps({"Weights": rows}))
    assert "| A pair | 1 |" in text
    assert ("| B | 2 |" in text) == (not failed)
