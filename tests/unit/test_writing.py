"""What is written of many rows is kept part by part, and nothing is written twice."""

import json

import pytest

from nlakit.train import writing
from nlakit.train.writing import written_lines


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(writing, "PART_ROWS", 3)


def line(row: int) -> str:
    return json.dumps(f"row {row}\n\nof \u2028 two paragraphs", ensure_ascii=False)


def test_a_killed_run_goes_on_with_the_part_that_it_was_in(tmp_path):
    asked = []

    def writer(stop_at: int):
        def write(rows: range) -> list[str]:
            if stop_at in rows:
                raise KeyboardInterrupt
            asked.append(rows)
            return [line(row) for row in rows]

        return lambda: write

    with pytest.raises(KeyboardInterrupt):
        written_lines(tmp_path, 8, "rows", writer(stop_at=4))
    found = written_lines(tmp_path, 8, "rows", writer(stop_at=-1))
    assert found == [line(row) for row in range(8)]
    assert asked == [range(0, 3), range(3, 6), range(6, 8)]


def test_models_are_loaded_only_where_something_is_missing(tmp_path):
    written_lines(tmp_path, 4, "rows", lambda: lambda rows: [line(row) for row in rows])
    assert written_lines(tmp_path, 4, "rows", lambda: pytest.fail("asked")) == [
        line(row) for row in range(4)
    ]
