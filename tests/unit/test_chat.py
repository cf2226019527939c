"""Conversations under chat templates that move, trim, drop and rewrite what messages say."""

from __future__ import annotations

import copy
import json
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chats import FOLDING, GROUPING, JSON_TEXT, MOVING, PLAIN, STRICT, THINKING
from support.serving import tiny_nla, tiny_tokenizer

from nlakit.errors import InputError
from nlakit.models.chat import Chat, ChatOptions, Veil
from nlakit.models.chat_marks import common_prefix, common_suffix, looked_for
from nlakit.models.chat_spans import GENERATION_PROMPT
from nlakit.transcript import parse_messages

CALL = {"type": "function", "function": {"name": "tides", "arguments": {"port": "Ayr", "days": 2}}}
TEMPLATES = [PLAIN, THINKING, FOLDING, MOVING, STRICT]


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def with_template(template):
    tokenizer = copy.copy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def chat(template, *messages, **options) -> Chat:
    return Chat(with_template(template), parse_messages(list(messages)), ChatOptions(**options))


def parts(made: Chat) -> list[tuple[int | None, str | None, str]]:
    """(message, section, text) of the rendered text from end to end."""
    intervals = [
        (each.span, made.rendered[each.start : each.end]) for each in made.layout.intervals
    ]
    runs = groupby(intervals, key=lambda each: (each[0].message_index, each[0].section))
    return [(*key, "".join(text for _, text in run)) for key, run in runs]


def tokens_of(made: Chat, index: int, section: str) -> str:
    pairs = zip(made.encoded.tokens, made.spans, strict=True)
    own = [token for token, s in pairs if (s.message_index, s.section) == (index, section)]
    return "".join(own)


def said(made: Chat, index: int, section: str = "content") -> list[str]:
    return [text for number, name, text in parts(made) if (number, name) == (index, section)]


def test_an_earlier_answer_keeps_its_place_where_the_newest_gets_a_block_of_thoughts():
    made = chat(THINKING, user("The boats"), assistant("A letter came"), user("on Monday"))
    assert parts(made)[3:6] == [
        (1, "header", "<|im_start|>assistant\n"),
        (1, "content", "A letter came"),
        (1, "footer", "<|im_end|>\n"),
    ]
    assert made.notices == ()


def test_a_turn_of_several_results_ends_behind_the_last():
    results = [{"role": "tool", "content": each} for each in ("14:10", "15:20")]
    made = chat(GROUPING, user("The boats"), *results, assistant("ten past two"))
    assert parts(made)[3:9] == [
        (1, "header", "<turn><result>"),
        (1, "content", "14:10"),
        (1, "footer", "</result>"),
        (2, "header", "<result>"),
        (2, "content", "15:20"),
        (2, "footer", "</result><end of turn>"),
    ]


def test_thoughts_that_a_template_drops_are_told_and_those_it_keeps_are_a_section():
    thought = "<think>\nhm hm\n</think>\n\n"
    first, last = assistant(thought + "yes"), assistant("no", reasoning_content="so so")
    made = chat(THINKING, user("a?"), first, user("b?"), last)
    assert said(made, 1) == ["yes"] and said(made, 1, "thinking") == []
    assert said(made, 3, "thinking") == ["<think>\nso so\n</think>"] and said(made, 3) == ["no"]
    assert made.notices == ("The chat template left out: thinking of message 1.",)


def test_thoughts_that_a_template_passes_on_as_text_are_a_section_too():
    made = chat(PLAIN, user("a?"), assistant("<think>hm</think> yes"), user("b?"))
    assert parts(made)[4:7] == [
        (1, "thinking", "<think>hm</think>"),
        (1, "content", " yes"),
        (1, "footer", "<|im_end|>\n"),
    ]


@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_calls_are_a_section_whatever_the_content(content):
    made = chat(THINKING, user("When?"), assistant(content, tool_calls=[CALL, CALL]))
    call = '<tool_call>\n{"name": "tides", "arguments": {"port": "Ayr", "days": 2}}\n</tool_call>'
    (section,) = said(made, 1, "tool_call")
    assert section.strip() == call + call and said(made, 1, "footer") == ["<|im_end|>\n"]
    assert said(made, 1) == ([content] if content else [])
    assert said(made, 1, "header") == ["<|im_start|>assistant\n<think>\n\n</think>\n\n"]


def test_a_system_line_that_is_folded_in_or_moved_keeps_its_role():
    line = {"role": "system", "content": "Be brief."}
    for template in (FOLDING, MOVING):
        made = chat(template, line, user("The boats"), assistant("ok"), user("more"))
        assert said(made, 0) == ["Be brief."] and said(made, 1) == ["The boats"]
        assert said(made, 2) == ["ok"] and said(made, 3) == ["more"]


def test_whitespace_is_content_only_where_the_template_keeps_it():
    assert said(chat(PLAIN, user("\n a \n")), 0) == ["\n a \n"]
    made = chat(FOLDING, user("\n a \n"))
    assert parts(made) == [
        (0, "header", "[BOS]<turn>user\n"),
        (0, "content", "a"),
        (0, "footer", "</turn>\n"),
    ]


def test_where_a_conversation_cannot_be_cut_the_footers_of_others_tell():
    line = {"role": "system", "content": "Be brief."}
    made = chat(STRICT, line, user("hi"), assistant("ho"))
    assert parts(made)[:4] == [
        (0, "header", "<system>"),
        (0, "content", "Be brief."),
        (None, "scaffold", "</system>\n<user>"),
        (1, "content", "hi"),
    ]


def test_a_template_that_rewrites_contents_is_read_as_far_as_it_can_be():
    made = chat(
        "{% for m in messages %}({{ m.content[:3] }}){% endfor %}", user("abcdef"), user("xy")
    )
    assert made.rendered == "(abc)(xy)" and said(made, 1) == ["xy"]
    assert "content of message 0" in made.notices[0]


def test_a_message_held_open_has_no_footer_and_a_prompt_is_the_assistants():
    made = chat(PLAIN, user("a"), assistant("so it "), continue_final_message=True)
    assert parts(made)[-1] == (1, "content", "so it ")
    made = chat(THINKING, user("a"), add_generation_prompt=True, enable_thinking=False)
    assert made.layout.intervals[-1].span == GENERATION_PROMPT
    assert parts(made)[-1][2] == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_an_empty_message_is_all_header():
    made = chat(PLAIN, user(""), assistant("x"))
    assert parts(made)[0] == (0, "header", "<|im_start|>user\n<|im_end|>\n")


# -- forms -----------------------------------------------------------------------------------------
# As Qwen3's does: it joins to the content, and looks for something in it.
JOINING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content.split('</think>')[-1] + '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)


def test_a_content_that_is_null_is_no_text_where_a_template_needs_one():
    made = chat(JOINING, user("boats"), assistant(None, tool_calls=[CALL]))
    assert said(made, 1, "tool_call") == [f"<tool_call>{json.dumps(CALL['function'])}</tool_call>"]
    assert said(made, 1, "header") == ["<|im_start|>assistant\n"]
    assert made.notices == ("Contents that are null are handed to the template as empty text.",)
    assert not chat(PLAIN, user("boats"), assistant(None, tool_calls=[CALL])).notices


def test_thoughts_in_a_part_stay_where_parts_are_joined():
    thought = {"type": "thinking", "thinking": "They sail."}
    message = assistant([thought, {"type": "text", "text": "Yes"}])
    made = chat(JOINING, user("boats"), message)
    assert said(made, 1, "thinking") == ["<think>They sail.</think>"]
    assert said(made, 1) == ["Yes"]
    dropping = JOINING.replace("m.reasoning_content", "m.nothing")
    told = chat(dropping, user("boats"), message).notices[-1]
    assert told == "The chat template left out: thinking of message 1."


def test_tags_of_an_answers_thoughts_are_the_tokens_that_templates_look_for():
    tokenizer = copy.deepcopy(with_template(JOINING))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    raw = [user("say </think>"), assistant("<think>They sail.</think>Yes")]
    made = Chat(tokenizer, parse_messages(raw))
    assert said(made, 1) == ["Yes"]
    listed = "Special tokens in messages are read as plain text: </think>."
    assert made.notices == ("The chat template left out: thinking of message 1.", listed)
    tokenizer.chat_template = PLAIN
    kept = Chat(tokenizer, parse_messages(raw[1:]))
    assert tokenizer.convert_tokens_to_ids("<think>") in kept.encoded.ids


def test_a_tag_that_two_headers_open_is_no_header():
    opening = JOINING.replace("{% if m.reasoning_content %}", "{% if not m.tool_calls %}<tell>")
    bare = chat(opening, user("boats"), assistant("", tool_calls=[CALL]))
    assert said(bare, 1, "tool_call")[0].startswith("<tool_call>{")


def test_parts_are_handed_on_or_joined_as_the_template_takes_them():
    content = [{"type": "text", "text": "The boats"}, {"type": "image"}]
    taken, joined = chat(STRICT, user(content)), chat(PLAIN, user(content))
    assert taken.rendered == "<user>The boats<image></user>\n" and said(joined, 0) == ["The boats"]
    assert [made.dropped for made in (taken, joined)] == [((0, "image part"),)] * 2
    assert "joined" in joined.notices[0] and "joined" not in taken.notices[0]


@pytest.mark.parametrize("arguments", [{"a": "é"}, '{"a": "é"}'])
def test_arguments_are_put_as_the_template_takes_them(arguments):
    message = assistant(None, tool_calls=[{"function": {"name": "f", "arguments": arguments}}])
    made = {t: chat(t, user("?"), message).rendered for t in (PLAIN, STRICT, JSON_TEXT)}
    assert '"arguments": {"a": "é"}}' in made[PLAIN]
    assert "<call=f>a: é;</call>" in made[STRICT] and 'f({"a": "é"})' in made[JSON_TEXT]


def test_arguments_that_are_no_object_are_written_as_they_are():
    broken = assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{half"}}])
    assert '"arguments": "{half"}' in chat(PLAIN, user("?"), broken).rendered


def test_tools_reach_the_template_and_it_is_told_where_they_do_not():
    tool = {"type": "function", "function": {"name": "tides", "parameters": {}}}
    assert '"name": "tides"' in chat(THINKING, user("a"), tools=(tool,)).rendered
    assert chat(PLAIN, user("a"), tools=(tool,)).notices == (
        "The chat template does not list tools.",
    )


# -- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no such role') }}",
        "{{ messages[0].role + messages[0].name }}",
        "{{ messages[0].content + none }}",
        "{{ 1 // 0 }}",
        "{% for m in messages %}",
        {"rag": "x", "tool_use": "y"},
        "{{ messages[0].content.nothing.more }}",
    ],
)
def test_whatever_a_template_raises_is_about_the_messages(template):
    with pytest.raises(InputError, match="chat template refuses the messages"):
        chat(template, user("a"))


def test_no_template_and_no_messages_are_refused():
    with pytest.raises(InputError, match="no chat template"):
        chat(None, user("a"))
    with pytest.raises(InputError, match="empty"):
        Chat(with_template(PLAIN), [])


# -- properties ------------------------------------------------------------------------------------
words = st.lists(
    st.sampled_from(["the cat", "🐈", "</think>", "<think>", "e\u0301", "\n", " ", "<|im_end|>"])
    | st.text(max_size=3),
    max_size=4,
).map("".join)
calls = st.lists(st.builds(lambda v: {"function": {"name": "f", "arguments": {"a": v}}}, words))
turns = st.lists(
    st.tuples(words, st.none() | words, st.none() | words, calls), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(turns, st.sampled_from(TEMPLATES), st.booleans())
def test_every_character_has_a_span_and_every_id_is_the_tokenizers(made_of, template, prompt):
    messages = []
    for question, answer, thought, called in made_of:
        more = {"reasoning_content": thought, "tool_calls": called or None}
        messages += [user(question), assistant(answer, **more)]
    tokenizer = with_template(template)
    made = Chat(tokenizer, parse_messages(messages), ChatOptions(prompt))
    edges = [each.start for each in made.layout.intervals] + [len(made.rendered)]
    assert edges == [0, *(each.end for each in made.layout.intervals)] and edges == sorted(edges)
    assert len(made.spans) == len(made.encoded.ids)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    assert made.encoded.text == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "tool", "system"]), words), min_size=1, max_size=5)
)
def test_contents_are_found_to_the_letter(pairs):
    made = chat(PLAIN, *({"role": role, "content": content} for role, content in pairs))
    for index, (_, content) in enumerate(pairs):
        if content.strip():
            assert "".join(said(made, index)) == content
    assert made.dropped == ()


def test_a_token_that_straddles_belongs_to_what_is_said():
    made = chat("{% for m in messages %}the c{{ m.content }}{% endfor %}", user("at"))
    straddling = [i for i, (start, end) in enumerate(made.encoded.offsets) if start < 5 < end]
    assert [made.spans[i].section for i in straddling] == ["content"] * len(straddling)
    assert made.spans[-1].section == "content"


# -- special tokens that people wrote --------------------------------------------------------------
def test_the_veil_hides_and_gives_back():
    veil = Veil(["<|ab|>", "㈎"], "x<|ab|>y㈎\ue000")
    covered = veil.cover("x<|ab|>y㈎")
    assert len(covered) == 4 and "\ue000" not in covered
    assert [tuple(piece) for piece in veil.pieces(f"<|ab|>{covered}")] == [
        ("<|ab|>x", False),
        ("<|ab|>", True),
        ("y", False),
        ("㈎", True),
    ]
    assert [veil.moves(covered)(place) for place in range(5)] == [0, 1, 7, 8, 9]


def test_special_tokens_in_messages_are_text_at_their_places():
    call = {"function": {"name": "f", "arguments": {"a": "<|bos|>"}}}
    made = chat(PLAIN, user("say <|user|> now"), assistant("ok <|eos|>", tool_calls=[call]))
    text = "".join(
        t
        for t, span in zip(made.encoded.tokens, made.spans, strict=True)
        if span.message_index == 0 and span.section == "content"
    )
    assert text == "say <|user|> now"
    assert not set(made.encoded.ids) & set(tiny_tokenizer().all_special_ids)
    assert "<|user|>" in made.notices[-1] and "plain text" in made.notices[-1]


def test_a_thought_is_steered_by_its_place_in_the_thinking_section(monkeypatch):
    pair = tiny_nla()
    monkeypatch.setattr(pair.target, "tokenizer", with_template(THINKING))
    messages = [user("a?"), assistant("no", reasoning_content="They hide the cat.")]
    prompt = pair.prepare(messages)
    inside = [place for place, span in enumerate(prompt.spans) if span.section == "thinking"]
    options = {"edit": "A cat by the pier.", "max_new_tokens": 2}
    assert pair.steer(messages, -1, section="thinking", **options) == pair.steer(
        messages, inside[-1], **options
    )
    with pytest.raises(InputError, match="0 tokens of it"):
        pair.steer(messages, 0, section="tool_call", **options)


def test_what_templates_look_for_is_left_unmarked():
    found = looked_for("{{ 'a</think>\\n' }} '<none>' {% if x == \"<b>\" and y == 'user' %}")
    assert found == ["a</think>", "<b>"]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_parts(first, second):
    size = common_prefix(first, second)
    assert first[:size] == second[:size]
    assert size in (len(first), len(second)) or first[size] != second[size]
    assert common_suffix(first, second) == common_prefix(first[::-1], second[::-1])
