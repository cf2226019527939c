"""Claims found in prose that no grammar wrote."""

from __future__ import annotations

import pytest

from nlakit.claims.spans import find_spans, hedged
from nlakit.claims.system import own_words

# In the manner of a teacher's labels of web text.
NEWS = (
    "A news report on the collapse of a bridge in Genoa, written in a sober, factual register; "
    "Mayor Marco Bucci has just been quoted.\n\n"
    "The death toll is 43, and about 1,200 residents were told to leave their homes.\n\n"
    'The last words are "according to the": a noun that names a source, such as “ministry”, '
    "must follow."
)
CODE = (
    "Python code of a Flask web application. The function `get_user` takes an id and returns "
    "three values. IBM's licence stands at the top."
)


def said(text: str, kind: str) -> list[str]:
    return [claim.value for claim in find_spans(text) if claim.kind == kind]


def test_quotes_numbers_and_names_of_a_news_label():
    assert said(NEWS, "quote") == ["according to the", "ministry"]
    assert said(NEWS, "number") == ["43", "1200"]
    assert said(NEWS, "name") == ["Genoa", "Mayor Marco Bucci"]


def test_phrases_are_what_stands_between_function_words():
    assert said(NEWS, "phrase") == [
        "news report", "collapse", "bridge", "written", "sober", "factual register", "quoted",
        "death toll", "residents", "leave", "homes", "last words", "noun", "names", "source",
    ]  # fmt: skip


def test_code_and_acronyms():
    assert said(CODE, "quote") == ["get_user"]
    assert said(CODE, "number") == ["three"]
    assert said(CODE, "name") == ["Flask", "IBM's"]
    assert "web application" in said(CODE, "phrase")
    assert "python code" in said(CODE, "phrase")


@pytest.mark.parametrize("text", [NEWS, CODE, "", "  \n", '"', "…", "Ünïcode «Straße» 3rd."])
def test_offsets_are_those_of_the_words_and_no_claim_lies_in_another(text):
    claims = find_spans(text)
    for claim in claims:
        words = text[claim.start : claim.end]
        assert words.replace(",", "").lower() == claim.value.lower()
        assert own_words(text, claim) == (claim.start, claim.end, 1)
    ends = [0, *[claim.end for claim in claims]]
    assert all(claim.start >= end for claim, end in zip(claims, ends, strict=False))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The Bank of England raised rates.", ["Bank of England"]),
        ("Paris in spring.", []),
        ("Marie Curie in spring; Paris too.", ["Marie Curie", "Paris"]),
        ("A letter from I. to Anna-Lena O'Neill of", ["Anna-Lena O'Neill"]),
        ("It says: However, NATO and the EU agree.", ["NATO and the EU"]),
    ],
)
def test_capitals_make_a_name_unless_a_sentence_begins(text, names):
    assert said(text, "name") == names


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("In 1984, 3.5% of 12,000 cost $40.", ["1984", "3.5%", "12000", "$40"]),
        ("The 3rd of twenty-one, not v2 or x86.", ["3rd"]),
        ("One of the two calls.", ["two"]),
    ],
)
def test_numbers(text, numbers):
    assert said(text, "number") == numbers


def test_a_value_is_claimed_once_where_it_first_stands():
    claims = find_spans("A ship and a ship.")
    assert [(claim.value, claim.start) for claim in claims] == [("ship", 2)]


# -- leaving out -----------------------------------------------------------------------------------
def test_hedges_take_the_place_of_some_claims_and_empty_sentences_go():
    text = 'A report from Genoa. It quotes "the mayor".\n\nThen 43 names.'
    claims = {claim.value: claim for claim in find_spans(text)}
    assert hedged(text, []) == text
    dropped = [claims[value] for value in ("Genoa", "the mayor", "quotes", "43")]
    assert hedged(text, dropped) == "A report from someone or something.\n\nThen some names."
    assert hedged(text, list(claims.values())) == ""


def test_what_is_dropped_is_not_said_a_second_time():
    text = "A ship left Genoa. The ship burned, and Genoa mourned."
    genoa = next(claim for claim in find_spans(text) if claim.value == "Genoa")
    hidden = "someone or something"
    assert hedged(text, [genoa]) == f"A ship left {hidden}. The ship burned, and {hidden} mourned."


def test_a_sentence_without_claims_stays():
    text = "It is so. A ship."
    (ship,) = find_spans(text)
    assert hedged(text, [ship]) == "It is so."
