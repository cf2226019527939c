"""One scale for every place that shows a fidelity."""

from __future__ import annotations

import math

import pytest

from nlakit.card import read_card
from nlakit.fidelity_scale import ABOUT, DOUBTFUL, FAITHFUL, WORSE, FidelityScale
from nlakit.registry import bundled_path

FLOORS = {"mean": -0.49, "shuffled": -0.98, "empty": -0.87}


@pytest.mark.parametrize(
    "fidelity, word",
    [
        (0.8, "faithful"),
        (0.79, "partly"),
        (0.5, "partly"),
        (0.2, "weak"),
        (0.1999, "do not believe"),
        (0.0, "do not believe"),
        (-0.49, "do not believe"),
        (-0.62, "worse than knowing nothing"),
        (math.nan, "worse than knowing nothing"),
    ],
)
def test_words_are_relative_to_the_floors(fidelity, word):
    assert FidelityScale(FLOORS).grade(fidelity).word == word


def test_a_high_floor_takes_the_better_words_away():
    scale = FidelityScale({"generic": 0.55, "shuffled": -0.2})
    assert scale.grade(0.54) is WORSE
    assert scale.grade(0.81) is FAITHFUL


def test_without_floors_the_training_mean_is_what_knows_nothing():
    assert FidelityScale().grade(0.01) is DOUBTFUL
    assert FidelityScale().grade(-0.01) is WORSE


def test_axis_runs_from_the_worst_floor_to_one():
    scale = FidelityScale(FLOORS)
    assert scale.share(-0.98) == 0 and scale.share(1) == 1
    assert scale.share(0.01) == pytest.approx(0.5)
    assert scale.share(-1.4) == 0 and scale.is_outside(-1.4)
    assert not scale.is_outside(-0.98)
    assert scale.share(math.nan) == 0 and scale.is_outside(math.nan)


def test_axis_reaches_below_zero_where_all_floors_lie_above():
    assert FidelityScale({"mean": 0.1}).low == 0.0


def test_floors_are_told_best_first():
    assert FidelityScale(FLOORS).told_floors() == "mean -0.49, empty -0.87, shuffled -0.98"


def test_the_bundled_pair_has_every_floor_on_its_axis():
    floors = read_card(bundled_path()).floors
    scale = FidelityScale(floors)
    assert scale.low == min(floors.values()) < scale.knowing_nothing == max(floors.values())


def test_four_sentences_say_what_is_shown():
    assert len(ABOUT) == 4 and all(sentence.endswith(".") for sentence in ABOUT)
