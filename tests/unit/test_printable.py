"""What a checkpoint says reaches a terminal as text."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from nlakit.card import NlaCard, read_card
from nlakit.cli import run
from nlakit.errors import CheckpointError
from nlakit.printable import is_one_line, printable
from nlakit.reading import Reading, TokenReading

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"


def test_control_characters_are_shown_and_words_stay():
    assert printable(f"a{ESCAPE}b") == "a\ufffd]0;owned\ufffd\ufffd[2J\ufffd31mb"
    for text in ("a\tb\nc", "👩‍👩‍👧", "e\u0301", "a\u00a0b", "漢字"):
        assert printable(text) == text
    assert is_one_line("a b") and not any(map(is_one_line, ("a\n", ESCAPE, "a\u2028b", "\r")))


@pytest.mark.parametrize("field", ["name", "description", "floors"])
def test_a_card_with_an_escape_in_a_name_is_refused(tmp_path, field):
    fields = {"name": "n", "layer": 1, "d_model": 8, "variance": 1.0, "num_training_rows": 1}
    card = NlaCard.model_validate(fields).model_dump(mode="json")
    card[field] = {ESCAPE: 0.0} if field == "floors" else ESCAPE
    (tmp_path / "nla.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="control characters") as refusal:
        read_card(tmp_path)
    assert "\x1b" not in printable(str(refusal.value))


def test_an_explanation_cannot_command_a_terminal():
    scores = {"fidelity": 0.5, "cosine": 0.5, "mse": 0.5, "word": "partly"}
    row = TokenReading(position=0, token=f"t{ESCAPE}", explanation=f"e{ESCAPE}", **scores)
    reading = Reading(text="t", tokens=(row,), nla=f"n{ESCAPE}", floors={})
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(reading)
    for shown in (str(reading), console.file.getvalue()):  # pyright: ignore[reportAttributeAccessIssue]
        assert "\x1b" not in shown and "\x07" not in shown and "\x9b" not in shown


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\u65e5\ud83d\ude42"), ("utf-8", "日🙂")]
)
def test_a_console_of_another_encoding_shows_escapes(monkeypatch, encoding, shown):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert run(["explain", "--file", "日🙂.txt"]) == 2
    print(json.dumps("日🙂 \ud83d", ensure_ascii=False), end="", flush=True)
    written, refused = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert f"{shown}.txt cannot be read" in refused
    assert written == f'"{shown} \\ud83d"' and json.loads(written) == "日🙂 \ud83d"
