"""The storyworld: what it writes, what it knows of a place, and what the checker makes of words."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from nlakit.split import split_of
from nlakit.storyworld import lexicon as lex
from nlakit.storyworld.claims import check, next_value, parse
from nlakit.storyworld.document import KINDS, last_words
from nlakit.storyworld.grammar import document, generate
from nlakit.storyworld.teacher import label

GENRES = ("story", "couplet", "answers", "sums", "chat", "spanish")


def documents(genre, count=40, seed=11):
    return [document(seed, index, genre) for index in range(count)]


def planned(made, kind):
    return [fact for fact in made.facts if fact.kind == kind and fact.planned]


def claim_set(text):
    return {(claim.kind, claim.value) for claim in parse(text)}


def verdict_of(text, state, kind):
    return [check(claim, state) for claim in parse(text) if claim.kind == kind]


# -- documents -------------------------------------------------------------------------------------
def test_document_is_a_function_of_seed_and_index():
    assert document(5, 7) == document(5, 7)
    assert len({document(seed, index).text for seed in (5, 6) for index in range(50)}) == 100


def test_generate_continues_from_any_index():
    whole = list(islice(generate(5, "heldout"), 6))
    middle = int(whole[2].id.split("-")[1])
    assert list(islice(generate(5, "heldout", start=middle + 1), 3)) == whole[3:]


def test_splits_are_disjoint_whatever_the_seeds():
    train = {made.text for seed in (1, 2, 3) for made in islice(generate(seed, "train"), 200)}
    heldout = {made.text for seed in (1, 2, 4) for made in islice(generate(seed, "heldout"), 50)}
    assert not train & heldout
    assert {split_of(text) for text in heldout} == {"heldout"}


def test_one_eighth_is_held_out():
    splits = [split_of(f"text {number}") for number in range(4000)]
    assert splits.count("heldout") / 4000 == pytest.approx(0.125, abs=0.02)


@pytest.mark.parametrize("genre", GENRES)
def test_facts_are_of_known_kinds_and_lie_within_the_text(genre):
    for made in documents(genre):
        for fact in made.facts:
            assert fact.kind in KINDS
            assert 0 <= fact.start <= (fact.end or len(made.text)) <= len(made.text)


@pytest.mark.parametrize("genre", GENRES)
def test_segments_spell_the_text_without_overlap(genre):
    for made in documents(genre, count=15):
        ends = [0, *(segment.end for segment in made.segments)]
        assert all(a.start >= end for a, end in zip(made.segments, ends, strict=False))
        assert ends[-1] == len(made.text)


def test_chat_messages_spell_the_text():
    for made in documents("chat", count=20):
        spelt = "".join(f"<|{each.role}|>{each.content}" for each in made.messages)
        assert spelt == made.text


# -- facts and their extent ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("genre", "kind"),
    [("couplet", "rhyme"), ("sums", "sum"), ("answers", "answer"), ("chat", "count")],
)
def test_planned_fact_holds_until_it_is_said(genre, kind):
    for made in documents(genre):
        assert planned(made, kind)
        for fact in planned(made, kind):
            assert fact.end is not None
            assert made.text[: fact.end].endswith(fact.value)
            assert made.state(fact.start).facts[kind] == fact.value
            assert kind in made.state(fact.end - 1).planned
            assert made.state(fact.end).facts.get(kind) != fact.value
            assert kind not in made.state(fact.start - 1).facts


def test_rhyme_is_planned_from_the_end_of_the_first_line():
    rhymes = {rhyme.second: rhyme.first for rhyme in lex.RHYMES}
    for made in documents("couplet"):
        for fact in planned(made, "rhyme"):
            assert made.text[: fact.start].endswith(rhymes[fact.value])
            assert made.text[fact.start] == ","


def test_sum_is_what_the_numbers_come_to():
    for made in documents("sums", count=60):
        numbers = [int(digits) for digits in re.findall(r"\d+", made.text)]
        for number, fact in enumerate(planned(made, "sum")):
            before, change, after = numbers[2 * number : 2 * number + 3]
            assert after == int(fact.value)
            assert abs(after - before) == change


def test_answer_agrees_with_the_fact_base():
    for made in documents("answers"):
        for fact in planned(made, "answer"):
            question = (
                made.text[: fact.start].rpartition("what is the ")[2].rpartition("hat is the ")[2]
            )
            attribute, _, town = question.partition(" of ")
            _, values, answers = lex.ATTRIBUTES[attribute]
            assert fact.value == values[answers[lex.TOWNS.index(town)]]


def test_count_is_planned_where_the_report_begins_and_may_be_a_lie():
    lies = 0
    for made in documents("chat", count=150):
        (fact,) = planned(made, "count")
        assert made.text[: fact.start].endswith("<|assistant|>")
        lies += lex.COUNT_WORDS.index(fact.value) + 1 != made.text.count("<|tool|>")
        instructed = "one call less" in made.text
        assert instructed == (lex.COUNT_WORDS[made.text.count("<|tool|>") - 1] != fact.value)
    assert 0 < lies < 75


def test_notes_in_a_chat_are_of_its_drill_and_nowhere_else():
    notes = {"yes": lex.DRILL_NOTES, "no": lex.LIVE_NOTES}
    found = 0
    for made in documents("chat", count=60):
        (drill,) = [fact.value for fact in made.facts if fact.kind == "drill"]
        said = [seg for seg in made.segments if seg.slot == "note"]
        found += len(said)
        assert all(seg.candidates == notes[drill] for seg in said)
    assert found / 60 > 3  # in most sentences, or nothing would ask the target to keep it
    assert not any(seg.slot == "note" for made in documents("story") for seg in made.segments)


def test_size_of_a_total_is_said_before_it():
    sizes = {
        int(total): size
        for made in documents("sums", count=200)
        for size, total in re.findall(r"that made (a \w+) (?:\w+ )?(\d+)", made.text)
    }
    assert sizes == {
        total: lex.SIZES[(total - 1) // lex.SIZE_STEP] for total in range(1, max(sizes) + 1)
    }


def test_what_goes_along_tells_the_goal_in_any_genre():
    of = {words: goal for goal, each in lex.GOALS.items() for words in each.means}
    for genre in ("story", "answers", "sums", "chat"):
        said = [
            (of[made.text[seg.start : seg.end].strip()], made.state(seg.end).facts["goal"])
            for made in documents(genre)
            for seg in made.segments
            if seg.slot == "means"
        ]
        assert said and all(told == held for told, held in said)


def test_tool_calls_are_numbered_as_they_come():
    for made in documents("chat"):
        numbers = re.findall(r"<\|tool\|>Call (\w+) found", made.text)
        assert numbers == list(lex.COUNT_WORDS[: len(numbers)])
        assert len(numbers) == made.text.count("<|tool|>")


def test_language_switch_is_planned_then_done():
    switching = [made for made in documents("spanish", count=60) if planned(made, "switch")]
    assert 10 < len(switching) < 50
    for made in switching:
        (fact,) = planned(made, "switch")
        assert made.state(fact.start).facts["language"] == "english"
        assert made.state(fact.end).facts["language"] == "spanish"
        assert "switch" not in made.state(fact.end).facts


def test_fact_is_unknown_before_its_first_word():
    for made in documents("story"):
        fact = next(fact for fact in made.facts if fact.kind == "topic")
        assert "topic" not in made.state(fact.start - 1).facts
        assert made.state(len(made.text)).facts["topic"] == fact.value


# -- the place itself ------------------------------------------------------------------------------
def test_inside_a_word_its_rest_is_due():
    made = document(11, 0, "story")
    word = next(seg for seg in made.segments if seg.slot == "name" and seg.end - seg.start > 3)
    state = made.state(word.end - 2)
    assert (state.next_slot, next_value(state)) == ("rest", "rest")
    assert made.text[word.end - 2 :].startswith(state.next_words[0])


def test_inside_a_fixed_phrase_its_next_word_is_due():
    made = next(made for made in documents("sums") if "that made" in made.text)
    state = made.state(made.text.index("that made") + len("that"))
    assert next_value(state) == "word made"


def test_nothing_is_due_where_the_grammar_is_open():
    made = document(11, 0, "sums")
    assert next_value(made.state(len(made.text))) is None


def test_last_words_read_role_tokens_as_words():
    assert last_words("You help.<|user|>So, I") == ("user:", "So,", "I")
    assert last_words("half a wo") == ("half", "a", "wo")
    assert last_words("") == ()


# -- teacher and checker ---------------------------------------------------------------------------
def places(count, seed):
    for made in islice(generate(seed, "heldout"), count):
        yield made, random.Random(made.id).randint(10, len(made.text))


def test_checker_recovers_what_labels_say():
    found = intended = right = 0
    for made, char_end in places(1500, seed=31_337):
        written = label(made, char_end)
        got, want = claim_set(written.text), set(written.claims)
        found, intended, right = found + len(got), intended + len(want), right + len(got & want)
    assert intended > 9000
    assert right / intended >= 0.98
    assert right / found >= 0.98


def test_labels_are_true():
    verdicts = [
        check(claim, made.state(char_end))
        for made, char_end in places(200, seed=77)
        for claim in parse(label(made, char_end).text)
    ]
    assert len(verdicts) > 1200
    assert verdicts.count("true") / len(verdicts) > 0.995


def test_label_is_a_function_of_place_and_seed():
    made = document(11, 0)
    assert label(made, 60) == label(made, 60)
    assert len({label(made, 60, seed).text for seed in range(5)}) > 1


def test_check_tells_true_false_and_uncheckable():
    made = document(11, 0, "story")
    state = made.state(len(made.text))
    mood = state.facts["mood"]
    wrong = next(value for value in lex.MOODS if value != mood)
    assert verdict_of(f"It is {mood}.", state, "mood") == ["true"]
    assert verdict_of(f"It is {wrong}.", state, "mood") == ["false"]
    assert next_value(state) is None
    assert verdict_of("It stops, then an adjective.", state, "next") == ["uncheckable"]


def test_a_fact_not_fixed_yet_cannot_be_true():
    made = next(made for made in documents("couplet") if planned(made, "rhyme"))
    fact = planned(made, "rhyme")[0]
    text = f'The rhyme will be "{fact.value}".'
    assert verdict_of(text, made.state(fact.start), "rhyme") == ["true"]
    assert verdict_of(text, made.state(fact.start - 1), "rhyme") == ["false"]


def test_last_words_are_checked_from_the_end():
    state = document(11, 0, "story").state(40)
    one, two = state.last_words[-1], " ".join(state.last_words[-2:])
    assert verdict_of(f'It ends on "{one}".', state, "last") == ["true"]
    assert verdict_of(f'It ends on "{two}".', state, "last") == ["true"]
    assert verdict_of(f'It ends on "{two} zebra".', state, "last") == ["false"]


def test_quoted_words_make_no_other_claims():
    assert claim_set('It ends on "happy sailor at the sea".') == {
        ("last", "happy sailor at the sea")
    }


def test_parse_survives_reordering():
    for made, char_end in places(100, seed=5):
        written = label(made, char_end)
        sentences = re.findall(r'(?:"[^"]*"|[^".])+\.', written.text)
        turned = " ".join(sentence.strip() for sentence in reversed(sentences))
        assert claim_set(turned) == claim_set(written.text)


def test_parse_survives_broken_grammar():
    drifted = (
        "gloomy gloomy tale sailor sea; find thing thing; follow Mira Mira, "
        'total of the 14, rhyme "night" rhyme "night", then adverb adverb'
    )
    assert claim_set(drifted) == {
        ("mood", "gloomy"),
        ("genre", "story"),
        ("speaker", "sailor"),
        ("topic", "sea"),
        ("goal", "find"),
        ("person", "Mira"),
        ("sum", "14"),
        ("rhyme", "night"),
        ("next", "manner"),
    }


@pytest.mark.parametrize("text", ["", '"', '""', "no claims here at all", "\n\t", '"""'])
def test_text_without_claims_is_read_without_error(text):
    assert parse(text) == []
