"""Requests as the target reads them, under chat templates of several kinds."""

from __future__ import annotations

import copy
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.chats import THINKING
from support.serving import tiny_target

from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.serve.schemas import PromptRequest
from nlakit.serve.tokens import Prompt, prepare, terminal_ids

# A header and a footer around each message; a system line that nobody asked for.
IMPLICIT = (
    "{% if messages[0].role != 'system' %}[system]You help.[end]\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# No system role, as in Gemma; contents are stripped.
STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role }}]\n{{ m.content | trim }}[end]\n{% endfor %}"
    "{% if add_generation_prompt %}[model]\n{% endif %}"
)
DEEP = functools.reduce(lambda inner, _: {"a": inner}, range(99), {})
WORDS = ["the cat", "🐈", "漢字", "e\u0301", "a\nb", "<|tool|>", "㈎", "[end]", "\u202e", " "]
contents = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "tool"]), contents), min_size=1, max_size=4
)


def with_template(template: str) -> Target:
    target = copy.copy(tiny_target())
    target.tokenizer = copy.copy(target.tokenizer)
    target.tokenizer.chat_template = template
    return target


def read(target: Target, messages, **options) -> Prompt:
    pairs = [{"role": role, "content": content} for role, content in messages]
    return prepare(target, PromptRequest(messages=pairs, **options))


def text_of(prompt: Prompt, index: int | None, section: str) -> str:
    places = [
        place
        for place, span in enumerate(prompt.spans)
        if (span.message_index, span.section) == (index, section)
    ]
    return "".join(prompt.encoded.tokens[place] for place in places)


def test_an_implicit_system_line_belongs_to_the_first_header():
    prompt = read(with_template(IMPLICIT), [("user", "the cat")])
    assert text_of(prompt, 0, "header") == "[system]You help.[end]\n[user]"
    assert text_of(prompt, 0, "content") == "the cat"
    assert text_of(prompt, 0, "footer") == "[end]\n"
    assert text_of(prompt, None, "header") == "[assistant]"
    assert prompt.spans[-1].role == "assistant"


def test_a_template_without_a_system_role_refuses_it():
    target = with_template(STRICT)
    with pytest.raises(InputError, match="no system role"):
        read(target, [("system", "x"), ("user", "y")])
    prompt = read(target, [("user", "a"), ("assistant", "b")])
    assert text_of(prompt, 1, "content") == "b" and text_of(prompt, 1, "header") == "[assistant]\n"


def test_a_held_open_message_has_no_footer():
    options = {"continue_final_message": True, "add_generation_prompt": False}
    prompt = read(with_template(IMPLICIT), [("user", "a"), ("assistant", "the cat")], **options)
    assert prompt.encoded.text.endswith("[assistant]the cat")
    assert text_of(prompt, 1, "footer") == "" and text_of(prompt, 1, "content") == "the cat"


@settings(max_examples=25, deadline=None)
@given(turns, st.sampled_from([IMPLICIT, STRICT]))
def test_all_tokens_have_a_span_and_all_text_is_there(messages, template):
    prompt = read(with_template(template), messages)
    assert len(prompt.spans) == len(prompt.encoded.ids) == len(prompt.pieces)
    ends = [end for _, end in prompt.encoded.offsets]
    assert ends == sorted(ends) and ends[-1] == len(prompt.encoded.text)
    for index, (role, content) in enumerate(messages):
        own = [span for span in prompt.spans if span.message_index == index]
        assert {span.role for span in own} == {role}
        assert content.strip() in prompt.encoded.text
    special = set(prompt_specials(prompt))
    assert special <= {"<|bos|>"}


def prompt_specials(prompt: Prompt) -> list[str]:
    ids = set(tiny_target().tokenizer.all_special_ids)
    return [
        token
        for token, i in zip(prompt.encoded.tokens, prompt.encoded.ids, strict=True)
        if i in ids
    ]


def test_a_template_that_fails_is_a_bad_request():
    for template in ("{{ messages[9].content.x.y }}", "{{ 1 / 0 }}", None):
        with pytest.raises(InputError, match="template"):
            read(with_template(template), [("user", "a")])


def test_enable_thinking_reaches_the_template_only_when_given():
    target = with_template("{{ enable_thinking is defined }}{{ messages[0].content }}")
    assert read(target, [("user", "a")]).encoded.text == "Falsea"
    assert read(target, [("user", "a")], enable_thinking=False).encoded.text == "Truea"


def test_text_has_no_spans_and_bos_once():
    target = tiny_target()
    plain, given_bos = (prepare(target, PromptRequest(text=t)) for t in ("a b", "<|bos|>a b"))
    assert plain.encoded.ids == given_bos.encoded.ids
    assert given_bos.encoded.offsets[-1] == (len("<|bos|>a b") - 2, len("<|bos|>a b"))
    assert prepare(target, PromptRequest(text="<|bos|>")).encoded.ids == [1]
    assert {span.section for span in plain.spans} == {None}


def test_terminal_ids_are_those_of_tokenizer_and_config():
    assert terminal_ids(tiny_target()) == {2}


def test_calls_thoughts_and_parts_reach_the_template_over_the_wire():
    call = {"function": {"name": "tides", "arguments": {"port": "Ayr"}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "at two", "tool_call_id": "c1"},
    ]
    request = PromptRequest.model_validate({"messages": messages, "add_generation_prompt": False})
    made = prepare(with_template(THINKING), request)
    expected = copy.deepcopy(messages)
    expected[0]["content"] = "When?"
    tokenizer = with_template(THINKING).tokenizer
    assert made.encoded.text == tokenizer.apply_chat_template(expected, tokenize=False)
    assert "hm" in text_of(made, 1, "thinking") and "tides" in text_of(made, 1, "tool_call")
    assert "joined" in made.notices[0]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": 3},
        {"role": "user", "content": [{"text": "\ud83d"}]},
        {
            "role": "assistant",
            "tool_calls": [functools.reduce(lambda a, _: {"a": a}, range(99), {})],
        },
    ],
)
def test_messages_of_another_shape_are_refused_by_the_schema(message):
    with pytest.raises(ValidationError):
        PromptRequest.model_validate({"messages": [message]})
