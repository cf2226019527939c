"""Claim systems by the name on a card, and teachers by theirs."""

from __future__ import annotations

import pytest

from nlakit.card import NlaCard, read_card
from nlakit.claims.registry import claim_system
from nlakit.claims.spans import SPANS
from nlakit.claims.system import NO_CLAIMS
from nlakit.data.labels import Place
from nlakit.errors import ConfigError, InputError
from nlakit.evals.claims import score_claims
from nlakit.registry import resolve
from nlakit.storyworld.grammar import document
from nlakit.teachers.named import teacher_named


def test_the_bundled_card_names_its_claims():
    system = claim_system(read_card(resolve()).claims)
    assert (system.name, system.control_kinds) == ("storyworld", {"day", "wind"})
    made = document(7, 2)
    facts = system.known().facts(made.state(len(made.text)))
    assert facts["topic"].values == (made.state(len(made.text)).facts["topic"],)


def test_a_card_without_claims_has_none():
    card = NlaCard(name="x", layer=0, d_model=4, variance=1.0, num_training_rows=1)
    assert claim_system(card.claims) is NO_CLAIMS
    assert NO_CLAIMS.find("A calm story.") == []


def test_claims_that_nobody_brings_are_refused_by_what_there_is():
    with pytest.raises(ConfigError, match="found none, spans, storyworld"):
        claim_system("oracle")


def test_claims_that_nobody_can_check_are_not_scored():
    with pytest.raises(InputError, match="'spans'"):
        score_claims(["Genoa burned."], [None], SPANS)


# -- the storyworld's teacher ----------------------------------------------------------------------
def test_storyworld_teacher_labels_its_own_documents(tmp_path):
    made = document(3, 4)
    place = Place(made.text[:80], 3, 4, 80)
    label = teacher_named("storyworld", tmp_path / "answers.sqlite").label(place)
    assert label.explanation and label.claims


def test_storyworld_teacher_refuses_rows_of_another_corpus(tmp_path):
    teacher = teacher_named("storyworld", tmp_path / "answers.sqlite")
    with pytest.raises(InputError, match="of another corpus"):
        teacher.label(Place("The committee met on Tuesday.", 0, 4, 29))
