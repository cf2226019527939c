"""The demo of a model's NLA: real texts, their readings, and a verdict on each claim."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from support.serving import tiny_nla

from nlakit.claims.registry import claim_system
from nlakit.claims.text.state import FORMS
from nlakit.cli.demo import show_example, shown_text
from nlakit.data.corpora import CorpusDocument
from nlakit.engines.base import Completion
from nlakit.errors import InputError
from nlakit.evals.checked import checked_claims, counted
from nlakit.examples import EXAMPLES

SAID = 'Python code about planets. It stops at "is also"; next may come "zebra".'


@pytest.fixture
def pair(monkeypatch):
    """A pair of random weights whose explanations are all the same."""
    found = tiny_nla()
    words = Completion(SAID, f"<explanation>{SAID}</explanation>", (), (), True)
    monkeypatch.setattr(
        type(found.engine), "verbalize", lambda self, rows, *_, **__: [[words] for _ in rows]
    )
    return replace(found, card=found.card.model_copy(update={"claims": "text"}))


def printed(pair, example):
    console = Console(file=StringIO(), width=100)
    show_example(console, pair, example)
    return " ".join(console.file.getvalue().split())  # pyright: ignore[reportAttributeAccessIssue]


def test_every_example_is_shown_read_and_checked(pair):
    for example in EXAMPLES:
        said = printed(pair, example)
        assert example.title in said and example.note in said
        assert " ".join(shown_text(example).split()) in said
        assert "next zebra" in said.partition("false:")[2]


def test_verdicts_are_of_the_example_s_own_text(pair):
    by_id = {example.id: example for example in EXAMPLES}
    assert "true: subject planets" in printed(pair, by_id["unsaid"])
    assert "true: form code" in printed(pair, by_id["code"])
    proof = printed(pair, by_id["proof"])
    assert "false: form code" in proof
    # The last of the four tokens that are read ends on these words, and no other does.
    assert proof.count("before is") == 4 and "before is" in proof.rpartition("true:")[2]


def test_examples_name_kinds_of_text_that_labels_know():
    assert {example.form for example in EXAMPLES} <= {"", *FORMS}
    assert len({example.id for example in EXAMPLES}) == len(EXAMPLES)


def test_claims_of_a_world_cannot_be_checked_in_another_text(pair):
    document = CorpusDocument("one", 0, "Basil rowed.")
    encoded = pair.encode("Basil rowed.")
    with pytest.raises(InputError, match="their own world only"):
        checked_claims(pair.target, claim_system("storyworld"), document, encoded,
                       pair.explain("Basil rowed.", last=1))  # fmt: skip


def test_claims_are_counted_by_verdict(pair):
    claims = claim_system("text").find(SAID)
    assert [each.kind for each in claims] == ["form", "subject", "before", "last", "next"]
    found = counted([(claims[0], "true"), (claims[1], "false"), (claims[3], "true")])
    assert found == {"true": ["form code", "last also"], "false": ["subject planets"],
                     "uncheckable": []}  # fmt: skip
