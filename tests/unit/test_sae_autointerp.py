"""Explanations of latents against contexts whose truth is known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nlakit.errors import InputError
from nlakit.models.target import Encoded
from nlakit.sae.autointerp import (
    Context,
    FactJudge,
    Marked,
    TeacherJudge,
    _from_quantiles,
    balanced_accuracy,
    explain_latents,
    read_verdicts,
    score_latents,
    with_marks,
)
from nlakit.sae.dashboard import Activity
from nlakit.sae.texts import Passage
from nlakit.teachers.chat import Answer
from nlakit.teachers.fake import FakeTeacher
from nlakit.teachers.latents import DETECT, EXPLAIN, FUZZ

WORDS = ("boat", "hill", "rain")


def world(num_passages=120, length=32):
    """Passages of one context each. Latent i is active, from 1 to 2, at a third of the words i of
    the passages that have it, and every passage has one word of the three."""
    passages, entries = [], []
    draws = np.random.default_rng(0)
    for number in range(num_passages):
        word = number % len(WORDS)
        at = sorted(draws.choice(length, 4, replace=False).tolist())
        tokens = [WORDS[word] + " " if i in at else "the " for i in range(length)]
        facts = tuple(
            frozenset({f"word={WORDS[word]}"}) if i in at else frozenset() for i in range(length)
        )
        encoded = Encoded(list(range(length)), [(0, 1)] * length, tokens, "")
        passages.append(Passage(str(number), number, encoded, list(range(length)), facts))
        entries += [(word, number * length + i, 1 + draws.random()) for i in at]
    entries.sort()
    latents, rows, values = (np.array(column) for column in zip(*entries, strict=True))
    starts = np.searchsorted(latents, np.arange(len(WORDS) + 2))
    return Activity(passages, starts, rows, values, np.arange(num_passages + 1) * length)


def names(activity, explanations, judge, **more):
    about = {"sae": "x", "explainer": "y", "corpus": "z", **more}
    return score_latents(activity, explanations, judge, **about)


def test_the_right_fact_scores_one_and_a_foreign_one_by_chance():
    right = {i: f"word={word}" for i, word in enumerate(WORDS)}
    found = names(world(), right, FactJudge())
    assert (found.alive, found.explained) == (3, 3)
    assert (found.detection, found.fuzzing) == (1.0, 1.0)
    # Another's word is in half of the silent contexts, and in none of the active ones.
    assert found.foreign_detection < 0.5
    assert found.foreign_fuzzing <= 0.5
    assert found.detection_interval == (1.0, 1.0)
    assert all(each.unanswered == 0 for each in found.latents)


def test_an_explanation_that_fits_everything_scores_a_half():
    anything = dict.fromkeys(range(3), " or ".join(f"word={word}" for word in WORDS))
    found = names(world(), anything, FactJudge())
    assert found.detection == 0.5
    # It knows the right tokens, though not of which word: wrong marks are seldom on one.
    assert found.fuzzing > 0.9


def test_too_few_contexts_are_refused():
    with pytest.raises(InputError, match="1 explained latents are active in 20"):
        names(world(), {0: "word=boat"}, FactJudge())
    with pytest.raises(InputError, match="Nobody knows"):
        activity = world()
        bare = [each._replace(facts=None) for each in activity.passages]
        unknown = Activity(
            bare, activity.starts, activity.rows, activity.values, activity.first_rows
        )
        names(unknown, {0: "a", 1: "b"}, FactJudge())


def test_a_teacher_is_asked_and_read():
    """A script that looks for the word of the explanation in each example."""

    def detects(text):
        explanation, _, rest = text.partition("\n\n")
        word = explanation.removeprefix("Explanation: ")
        return ", ".join(str(int(word in line)) for line in rest.split("\n"))

    def fits(text):
        explanation, _, rest = text.partition("\n\n")
        word = explanation.removeprefix("Explanation: ")
        return ", ".join(str(int(f"<<{word}" in line)) for line in rest.split("\n"))

    judge = TeacherJudge(FakeTeacher(detects, "script"), FakeTeacher(fits))
    found = names(world(), dict(enumerate(WORDS)), judge)
    assert (found.judge, found.detection, found.fuzzing) == ("script", 1.0, 1.0)
    silent = TeacherJudge(FakeTeacher(lambda text: None), FakeTeacher(lambda text: "1"))
    nothing = names(world(), dict(enumerate(WORDS)), silent)
    assert nothing.detection == nothing.fuzzing == 0.0
    assert all(each.unanswered == 80 for each in nothing.latents)


def test_an_explainer_sees_the_strongest_contexts_with_marks():
    teacher = FakeTeacher(lambda text: text.partition("<<")[2].partition(" ")[0])
    assert explain_latents(world(), [0, 1, 2], teacher) == dict(enumerate(WORDS))
    assert teacher.asked[0].count("Example") == 20
    # A latent that is never active has nothing to show.
    assert explain_latents(world(), [3], teacher) == {}


def test_marks_join_neighbours_and_verdicts_are_counted():
    encoded = Encoded([0] * 5, [(0, 1)] * 5, ["a", "b", "c", "d", "e"], "")
    passage = Passage("x", 0, encoded, [0, 1, 2, 3, 4])
    context = Context(passage, 1, (0.0, 1.0, 1.0, 1.0))
    assert with_marks(Marked(context, frozenset({1, 2}))) == "b<<cd>>e"
    assert with_marks(Marked(context, frozenset({0, 3}))) == "<<b>>cd<<e>>"
    assert read_verdicts("1, 0,1", 3) == [True, False, True]
    assert read_verdicts("1, 0", 3) == read_verdicts(None, 3) == [None] * 3
    assert balanced_accuracy([True, None, False, True], 2) == 0.5


def test_every_quantile_gives_as_many():
    chosen = _from_quantiles(range(100), 20, random.Random(0))
    assert sorted(each // 10 for each in chosen) == [i for i in range(10) for _ in range(2)]
    assert sorted(_from_quantiles(range(7), 20, random.Random(0))) == list(range(7))


def test_tasks_read_answers_in_tags():
    complete = Answer(
        text="<explanation>\nboats\nand ships\n</explanation>",
        outcome="complete",
        input_tokens=1,
        output_tokens=1,
    )
    assert EXPLAIN.read(complete).explanation == "boats and ships"
    for task in (DETECT, FUZZ):
        given = complete.model_copy(update={"text": "<explanation>1, 0</explanation>"})
        assert read_verdicts(task.read(given).explanation, 2) == [True, False]
        assert task.read(complete.model_copy(update={"text": "1, 0"})).explanation is None
