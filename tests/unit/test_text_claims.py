"""Claims that are checked against the text and the target's next tokens: written, read, decided."""

from __future__ import annotations

import random

import pytest

from nlakit.claim import Claim
from nlakit.claims.text.checking import TEXT, check, facts
from nlakit.claims.text.finding import find
from nlakit.claims.text.rewording import reword, without
from nlakit.claims.text.state import TextState, open_parts, salient_words, state_of
from nlakit.claims.text.wording import Told, describe, told_of
from nlakit.claims.text.words import alike, rarity, stem
from nlakit.data.labels import Place, Turn
from nlakit.models.guesses import Guess
from nlakit.teachers.text import TextTeacher

BANK = (
    "The central bank raised interest rates on Tuesday. Governor Anna Lindqvist said that data, "
    "and data-driven policy, left the bank no choice: inflation stood at 7.2 percent in March, and "
    "rates had been too low for too long. Markets in Frankfurt fell. “We will raise rates again"
)
GUESSES = (Guess(",", 0.4), Guess(" if", 0.2), Guess("\n", 0.1), Guess(" until", 0.08))
STATE = state_of(Place(BANK, 0, 0, len(BANK), "speech-7", (), GUESSES))


def said(text: str) -> set[tuple[str, str]]:
    return {(claim.kind, claim.value) for claim in find(text)}


def claim(kind: str, value: str) -> Claim:
    return Claim(kind, value, 0, 1)


# -- what is true ----------------------------------------------------------------------------------
def test_state_of_a_text():
    assert STATE.form == "speech"
    assert STATE.subjects[:2] == ("rates", "bank")
    assert "Governor Anna Lindqvist" in STATE.names
    assert STATE.numbers == ("7.2",)
    assert STATE.opened == ("quotation",)
    assert STATE.tail == "will raise rates again"
    assert STATE.likely == (",", "if", "\n", "until")


def test_subjects_are_no_two_forms_of_one_word():
    found = salient_words("Data, data and data-driven maps. A dataset of maps shows data. So", 6)
    assert found[0] == "data" and not any(alike("data", each) for each in found[1:])


@pytest.mark.parametrize(
    ("one", "other"),
    [("injuries", "injury"), ("movies", "movie"), ("policies", "policy"), ("naming", "names")],
)
def test_forms_of_a_word_have_one_stem(one, other):
    assert stem(one) == stem(other)


def test_common_words_weigh_less_than_rare_ones():
    assert rarity("the") < rarity("money") < rarity("parliament") < rarity("zeugma")
    assert rarity("zeugma") == rarity("xqzt")


def test_chat_has_a_speaker_and_a_request():
    text = "<|user|>\nFind me a cheap hotel in Lyon.\n<|bot|>\nFor how many"
    first, last = text.index("Find"), text.index("For how")
    turns = (Turn("user", first, first + 31), Turn("assistant", last, len(text)))
    state = state_of(Place(text, 0, 0, len(text), "", turns))
    assert (state.form, state.speaker) == ("chat", "assistant")
    assert "hotel" in state.asked and "bot" not in state.text
    assert check(claim("asked", "Lyon"), state) == "true"
    assert check(claim("asked", "many"), state) == "false"


@pytest.mark.parametrize(
    ("text", "form", "parts"),
    [
        ('He said, "come here. And', None, ["quotation"]),
        ('He said "come" and', None, []),
        ("He left (it was late", None, ["bracket"]),
        ("Needed:\n\n- flour\n- two eggs", None, ["list"]),
        ("Run this:\n\n```\nls -l", None, ["code"]),
        ("Was it late? She looked", None, ["question"]),
        ("It was late. She looked", None, []),
        ("Intro.\n\n## What to", None, ["heading"]),
        ("x = 1\n# a com", "code", ["comment"]),
    ],
)
def test_what_is_open(text, form, parts):
    assert list(open_parts(text, form)) == parts


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        ("form", "speech", "true"),
        ("form", "novel", "false"),
        ("subject", "banks", "true"),
        ("subject", "harbour", "false"),
        ("name", "Anna Lindqvist", "true"),
        ("name", "Anna Karenina", "false"),
        ("number", "7.2", "true"),
        ("number", "2", "false"),
        ("speaker", "user", "uncheckable"),
        ("open", "quotation", "true"),
        ("open", "list", "false"),
        ("last", "again", "true"),
        ("last", "rates", "false"),
        ("before", "raise rates", "true"),
        ("before", "rates again", "false"),
        ("next", ",", "true"),
        ("next", "until", "true"),
        ("next", "harbour", "false"),
    ],
)
def test_verdicts(kind, value, verdict):
    assert check(claim(kind, value), STATE) == verdict


def test_what_the_rows_do_not_say_is_uncheckable():
    bare = TextState(BANK)
    assert check(claim("form", "speech"), bare) == "uncheckable"
    assert check(claim("next", ","), bare) == "uncheckable"
    assert "form" not in facts(bare) and "next" not in facts(bare)


# -- written and read ------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_a_label_is_read_back_whole_and_is_true(seed):
    label = describe(told_of(STATE), random.Random(seed))
    assert said(label) == set(told_of(STATE).claims())
    assert {check(each, STATE) for each in find(label)} == {"true"}
    assert all(label[each.start : each.end] for each in find(label))


@pytest.mark.parametrize("seed", range(6))
def test_reworded_labels_claim_the_same_in_other_words(seed):
    label = describe(told_of(STATE), random.Random(seed))
    again = reword(label, seed)
    assert again != label and said(again) == said(label)
    assert reword("It is.", 1) == "It is."


def test_dropped_claims_leave_the_others_in_whole_sentences():
    label = describe(told_of(STATE), random.Random(1))
    dropped = [each for each in find(label) if each.kind in ("before", "name", "subject")]
    kept = without(label, dropped)
    assert said(kept) == said(label) - {(each.kind, each.value) for each in dropped}
    assert without(label, find(label)) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'speech on rates, inflation. Lindqvist, 7.2. ends "raise rates again"; then "if"',
            {("form", "speech"), ("subject", "rates"), ("subject", "inflation"),
             ("number", "7.2"), ("last", "again"), ("before", "raise rates"), ("next", "if")},
        ),
        (
            "A conversation in which the user wants a hotel in Lyon; the assistant speaks.",
            {("form", "chat"), ("asked", "hotel"), ("asked", "Lyon"), ("speaker", "assistant")},
        ),
        (
            'Inside a quotation. "again" is followed by a comma or "if".',
            {("open", "quotation"), ("last", "again"), ("next", ","), ("next", "if")},
        ),
        ("A text about whales. It names Ahab and Moby Dick.",
         {("subject", "whales"), ("name", "Ahab"), ("name", "Moby Dick")}),
    ],
)  # fmt: skip
def test_explanations_that_have_drifted_are_read(text, expected):
    assert said(text) >= expected


def test_words_around_the_values_are_no_claims():
    assert said("The passage discusses a topic. The text continues, so far.") == set()


@pytest.mark.parametrize(
    ("text", "word", "verdict"),
    [
        ("a table for 12:4", "4", "true"),
        ("a table for 12:4", "12:4", "true"),
        ("a table for 12:4", "2:4", "false"),
        ("we agree by 100%", "%", "true"),
        ("policy page under \u201cUse", "Use", "true"),
        ("an IPOP", "OP", "false"),
        ("one-stop shop", "stop shop", "true"),
        ("nonstop shop", "stop shop", "false"),
        ("the site-", "site", "false"),
    ],
)
def test_last_words_may_leave_out_what_stands_before_a_mark(text, word, verdict):
    state = state_of(Place(text, 0, 0, len(text), "", ()))
    assert check(Claim("last", word, 0, len(word)), state) == verdict


def test_what_is_open_is_decided_where_its_sentence_begins():
    text = 'A novel.\n\nA quotation is open. It is inside a bracket; it ends on "the".'
    quotation, bracket = (each for each in TEXT.find(text) if each.kind == "open")
    start, end, wordings = TEXT.extent(text, quotation)
    assert (text[start:end], wordings) == ("A quotation", 2)
    start, end, wordings = TEXT.extent(text, bracket)
    assert (text[start:end], wordings) == ("It is inside a bracket", 2)


def test_extent_of_a_kind_of_text_counts_its_wordings():
    text = "A conversation about whales."
    form, subject = find(text)
    assert TEXT.extent(text, form) == (2, 14, 2)
    assert TEXT.extent(text, subject).wordings == 1


# -- the teacher -----------------------------------------------------------------------------------
def test_teacher_writes_what_is_true_and_says_what_it_claims():
    place = Place(BANK, 0, 0, len(BANK), "speech-7", (), GUESSES)
    teacher = TextTeacher()
    label = teacher.label(place)
    assert label == teacher.label(place)
    assert set(label.claims) == said(label.explanation or "")
    other = Place(BANK, 0, 0, len(BANK), "speech-7", (), GUESSES[:1])
    assert teacher.key(other) != teacher.key(place)


def test_teacher_states_a_kind_in_its_share_of_the_labels():
    places = [
        Place(BANK[:end], 0, 0, end, "speech-7", (), GUESSES) for end in range(200, len(BANK))
    ]
    shares = {"subject": 0.25, "before": 0.0}
    labels = [TextTeacher(shares=shares).label(place) for place in places]
    kinds = [{kind for kind, _ in label.claims} for label in labels]
    stated = sum("subject" in each for each in kinds) / len(kinds)
    assert 0.15 < stated < 0.35
    assert not any("before" in each for each in kinds)
    assert all("last" in each and "form" in each for each in kinds)
    for label in labels[:20]:
        assert set(label.claims) == said(label.explanation or "")
    # Another share is another label: a kept answer of the one is none of the other.
    assert TextTeacher(shares=shares).key(places[0]) != TextTeacher().key(places[0])
    assert TextTeacher(shares=shares).name != TextTeacher().name


@pytest.mark.parametrize("shares", [{"subject": 1.5}, {"topic": 0.5}])
def test_teacher_refuses_a_share_that_cannot_be(shares: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(shares))):
        TextTeacher(shares=shares)


def test_teacher_never_drops_all_that_a_label_says():
    shares = {kind: 0.0 for kind in ("form", "subject", "name", "number", "before", "last", "next")}
    place = Place(BANK, 0, 0, len(BANK), "speech-7", (), GUESSES)
    told = TextTeacher(shares=shares | {"open": 0.0}).label(place)
    assert set(told.claims) == set(TextTeacher().label(place).claims)


def test_teacher_refuses_a_text_of_which_it_can_say_nothing():
    assert (
        TextTeacher().label(Place(" ", 0, 0, 1)).refusal
        == "the text says nothing that a rule finds"
    )
    assert told_of(TextState(" ")) == Told()
