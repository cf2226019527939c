"""What long work says where nobody watches."""

from __future__ import annotations

import pytest

from nlakit.train import progress
from nlakit.train.progress import count_progress, step_progress, time_span


class Clock:
    """Seconds that pass with each step."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_gets_a_line_a_minute_with_the_time_left_and_an_end(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with step_progress("AV warm start", total=100) as advance:
        for _ in range(100):
            clock.now += 2.0
            advance({"loss": 1.25})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "AV warm start: 30 of 100, 2 min left  loss 1.25"
    assert lines[1:3] == [
        "AV warm start: 60 of 100, 80 s left  loss 1.25",
        "AV warm start: 90 of 100, 20 s left  loss 1.25",
    ]
    assert lines[3] == "AV warm start: 100 of 100 after 3 min  loss 1.25"


def test_an_explanation_comes_every_ten_minutes(monkeypatch, capsys):
    clock, written = Clock(monkeypatch), iter(["A story about\na cat.", "A storm."])
    with step_progress("joint RL", total=25, example=lambda: next(written)) as advance:
        for _ in range(25):
            clock.now += 60.0
            advance({})
    said = [line for line in capsys.readouterr().err.splitlines() if "explanation" in line]
    assert said == [
        "joint RL, an explanation: A story about a cat.",
        "joint RL, an explanation: A storm.",
    ]


def test_resumed_work_says_from_where_and_times_what_is_left(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with step_progress("AR warm start", total=300, done=120) as advance:
        clock.now += 90.0
        advance({})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "AR warm start: resuming after 120 of 300."
    assert lines[1].startswith("AR warm start: 121 of 300, 4.5 h left")


def test_what_an_earlier_run_left_does_not_make_the_rest_look_short(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with count_progress("activations", 1000) as told:
        told(900, 1000)  # whole shards of the killed run
        clock.now += 60.0
        told(901, 1000)
        for number in range(902, 911):
            clock.now += 60.0
            told(number, 1000)
    assert "1.5 h left" in capsys.readouterr().err.splitlines()[-2]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.03, "0.03 s"), (12.4, "12 s"), (400, "7 min"), (6000, "1.7 h"), (1e6, "278 h")],
)
def test_time_is_said_in_the_unit_that_suits_it(seconds, said):
    assert time_span(seconds) == said


def test_what_is_told_of_in_batches_is_counted_before_its_time_is_shared(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with count_progress("activations", 1000) as told:
        clock.now += 120.0
        told(200, 1000)
    assert capsys.readouterr().err.splitlines()[0] == "activations: 200 of 1000, 8 min left"
