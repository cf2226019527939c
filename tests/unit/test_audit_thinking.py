"""Chains of thought: what they say beside what is read there, and answers with one changed."""

from __future__ import annotations

import copy

import pytest
from support.chats import THINKING
from support.serving import tiny_nla, tiny_tokenizer

from nlakit.audit.thinking import answer_after, chain_of_thought
from nlakit.cli.thinking import edit_of
from nlakit.errors import InputError
from nlakit.models.patch import continuations

MESSAGES = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "no", "reasoning_content": "They hide the cat. So I lie."},
]


@pytest.fixture
def pair(monkeypatch):
    made, tokenizer = tiny_nla(), copy.copy(tiny_tokenizer())
    tokenizer.chat_template = THINKING
    monkeypatch.setattr(made.target, "tokenizer", tokenizer)
    return made


def test_each_sentence_stands_beside_what_is_read_at_its_end(pair):
    made = chain_of_thought(pair, MESSAGES)
    assert [each.says for each in made.thoughts] == ["They hide the cat.", "So I lie."]
    first = made.thoughts[0]
    prompt = pair.prepare(MESSAGES)
    assert prompt.spans[first.position].section == "thinking"
    assert prompt.encoded.text[: prompt.encoded.offsets[first.position][1]].endswith("cat.")
    explained = pair.explain(MESSAGES, positions=[first.position]).tokens[0].explanation
    assert first.explanation == explained
    assert not set(first.unsaid) & {"hide", "cat"}, "what the text says is said"
    assert made.to_json()["thoughts"][1]["message_index"] == 1


def test_the_answer_is_written_anew_where_the_thinking_ends(pair):
    prompt = pair.prepare(MESSAGES)
    inside = [place for place, span in enumerate(prompt.spans) if span.section == "thinking"]
    told = [place for place, span in enumerate(prompt.spans) if span.section == "content"]
    answer = next(place for place in told if place > inside[-1])
    made = answer_after(pair, MESSAGES, inside[0], "A cat by the pier.", 4.0, max_new_tokens=4)
    (plain,) = continuations(pair.target, [prompt.encoded.ids[:answer]], max_new_tokens=4)
    assert made.plain == pair.target.tokenizer.decode(plain)
    assert made.edited == "A cat by the pier." and made.alpha == 4.0
    still = answer_after(pair, MESSAGES, inside[0], "A cat by the pier.", 0.0, max_new_tokens=4)
    assert still.plain == still.steered


def test_other_tokens_and_conversations_without_thinking_are_refused(pair):
    with pytest.raises(InputError, match="in no thinking section"):
        answer_after(pair, MESSAGES, 0, "A cat.")
    with pytest.raises(InputError, match="no thinking section"):
        chain_of_thought(pair, MESSAGES[:1])


def test_edits_are_pairs_or_one_whole_explanation():
    assert edit_of(("cat=dog", "a=b=c")) == {"cat": "dog", "a": "b=c"}
    assert edit_of(("A whole one.",)) == "A whole one."
    with pytest.raises(InputError, match="OLD=NEW"):
        edit_of(("cat=dog", "no pair"))
