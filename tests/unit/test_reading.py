"""Readings: words for fidelities, and every form they leave the program in."""

from __future__ import annotations

import csv
import io
import json
import sys

import pydantic
import pytest
from rich.console import Console

from nlakit.errors import InputError, MissingExtraError
from nlakit.fidelity_scale import FidelityScale
from nlakit.reading import Reading, Sample, TokenReading, visible

FLOORS = {"mean": -0.1}


def row(**changes) -> TokenReading:
    fields = {"position": 1, "token": " sea", "explanation": "A story [bold]about <the> sea."}
    made = {**fields, "fidelity": 0.83, "cosine": 0.9, "mse": 0.2, **changes}
    return TokenReading(**{"word": FidelityScale(FLOORS).grade(made["fidelity"]).word, **made})


def reading(*rows: TokenReading) -> Reading:
    return Reading(text="the sea", tokens=rows or (row(),), nla="tiny", floors=FLOORS)


def terminal(shown: Reading) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(shown)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_json_comes_back_the_same():
    samples = (
        Sample(explanation="A", closed=False, fidelity=0.1, cosine=0.5, mse=1.0, word="weak"),
    )
    before = reading(row(samples=samples))
    assert Reading.model_validate_json(before.to_json()) == before


def test_json_has_the_names_that_programs_rely_on():
    token = json.loads(reading().to_json())["tokens"][0]
    assert {"position", "token", "explanation", "fidelity", "cosine", "mse"} <= token.keys()
    assert (token["position"], token["token"], token["fidelity"]) == (1, " sea", 0.83)


def test_csv_has_a_line_for_each_sample_and_survives_line_ends():
    samples = tuple(
        Sample(explanation=text, fidelity=0.5, cosine=0.5, mse=1.0, word="weak")
        for text in ('a,"b"', "c\nd")
    )
    lines = list(csv.DictReader(io.StringIO(reading(row(samples=samples)).to_csv())))
    assert [line["explanation"] for line in lines] == ['a,"b"', "c\nd"]
    assert [line["sample"] for line in lines] == ["0", "1"]
    assert lines[0]["word"] == "weak"


def test_html_escapes_what_models_and_people_write():
    page = reading(row(token="<script>")).to_html()
    assert "<script>" not in page
    assert "about &lt;the&gt; sea" in page


def test_a_notebook_gets_a_table_and_not_a_page():
    shown = reading()._repr_html_()
    assert shown.startswith("<table") and "0.83 faithful" in shown


def test_a_terminal_shows_brackets_as_they_are():
    shown = terminal(reading())
    assert "[bold]about <the> sea" in shown
    assert "0.83 faithful" in shown
    assert "mean -0.10" in shown


def test_a_terminal_shows_the_other_samples_and_what_was_cut_off():
    cut = Sample(explanation="B half", closed=False, fidelity=0.3, cosine=0.5, mse=1.0, word="weak")
    best = Sample(explanation="A", fidelity=0.8, cosine=0.5, mse=1.0, word="weak")
    shown = terminal(reading(row(explanation="A", samples=(cut, best))))
    assert "0.30 B half … (cut off)" in shown
    assert "0.80 A" not in shown


@pytest.mark.parametrize(
    ("token", "shown"), [(" a", "·a"), ("\n", "⏎"), ("", "vector 1"), ("\x1b[2J", "�[2J")]
)
def test_tokens_are_made_visible(token, shown):
    assert visible(row(token=token)) == shown


def test_text_form_is_a_line_a_token():
    written = row(explanation='A novel.\n\nIt stops at "the".')
    assert str(reading(written, row(fidelity=-1.0))).count("\n") == 1
    assert 'A novel. It stops at "the".' in str(reading(written))


def test_exports_are_written_where_asked(tmp_path):
    content = reading().to_json(tmp_path / "new" / "reading.json")
    assert (tmp_path / "new" / "reading.json").read_text(encoding="utf-8") == content


def test_a_reading_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        reading().nla = "other"  # pyright: ignore[reportAttributeAccessIssue]


# -- as a sequence, and back -----------------------------------------------------------------------
def test_a_reading_has_a_length_rows_and_slices():
    before = reading(*(row(position=number) for number in (1, 2, 3)))
    assert (len(before), before[-1].position) == (3, 3)
    assert [each.position for each in before] == [1, 2, 3]
    assert before[1:].tokens == before.tokens[1:] and before[1:].floors == before.floors


def test_json_is_read_back_from_text_and_from_a_file(tmp_path):
    before = reading()
    text = before.to_json(tmp_path / "reading.json")
    assert Reading.from_json(text) == Reading.from_json(tmp_path / "reading.json") == before
    (tmp_path / "other.json").write_text('{"text": 1}')
    with pytest.raises(InputError, match="other.json"):
        Reading.from_json(tmp_path / "other.json")
    with pytest.raises(InputError, match="nowhere"):
        Reading.from_json("nowhere.json")


def test_a_data_frame_has_a_row_for_each_sample():
    samples = tuple(
        Sample(explanation=text, fidelity=0.1, cosine=0.5, mse=1.0, word="weak") for text in "AB"
    )
    frame = reading(row(samples=samples), row(position=2)).to_pandas()
    assert frame[["position", "sample", "explanation"]].values.tolist() == [
        [1, 0, "A"], [1, 1, "B"], [2, 0, "A story [bold]about <the> sea."],
    ]  # fmt: skip
    assert list(frame["word"]) == ["weak", "weak", "faithful"]


def test_notices_stand_under_the_table():
    assert "left out" in terminal(reading().model_copy(update={"notices": ("A call left out",)}))


def test_a_plot_has_a_bar_a_token_and_a_line_a_floor():
    rows = (row(), row(fidelity=-0.7, token=" $x", position=2), row(fidelity=1.0, position=3))
    axes = reading(*rows).plot()
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    assert tops == pytest.approx([0.83, -0.1, 1.0])
    outside, floor = axes.lines[0], axes.lines[1]
    assert list(outside.get_xdata()) == [1] and floor.get_ydata()[0] == -0.1
    assert axes.get_ylim() == pytest.approx((-0.1, 1.0))
    assert axes.patches[1].get_facecolor() != axes.patches[0].get_facecolor()
    axes.figure.canvas.draw()  # a token may look like a formula


def test_a_plot_is_drawn_on_given_axes():
    axes = reading().plot()
    assert reading().plot(axes) is axes and len(axes.patches) == 2


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"nlakit\[plot\]"):
        reading().plot()
