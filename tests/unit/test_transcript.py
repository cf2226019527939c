"""Messages keep what a template may write, and say what is wrong with those that are none."""

from __future__ import annotations

import pytest

from nlakit.errors import InputError
from nlakit.transcript import Message, ToolCall, parse_messages

CALL = {"function": {"arguments": {"port": "Eyemouth"}, "name": "tide_table"}, "id": "c1"}


def test_a_message_keeps_every_field_in_its_order():
    raw = {"role": "assistant", "content": None, "tool_calls": [CALL], "mood": "calm"}
    message = Message.parse(raw)
    assert list(message.fields) == list(raw) and message.fields["tool_calls"] == [CALL]
    assert message.tool_calls == (ToolCall("tide_table", {"port": "Eyemouth"}, "c1"),)
    assert message.text == "" and message.thinking is None


@pytest.mark.parametrize(
    ("arguments", "found"),
    [('{"a": 1}', {"a": 1}), ("{broken", "{broken"), ("[1]", "[1]"), (None, {}), ([1], "[1]")],
)
def test_arguments_are_an_object_or_the_text_that_is_none(arguments, found):
    call = {"name": "f", "arguments": arguments}
    message = Message.parse({"role": "assistant", "tool_calls": [call]})
    assert message.tool_calls == (ToolCall("f", found),)


def test_parts_say_their_text():
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "b", {"type": "input_text"}]
    assert Message.parse({"role": "user", "content": parts}).text == "a\nb"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_thinking_has_several_names(name):
    assert Message.parse({"role": "assistant", "content": "", name: "hm"}).thinking == "hm"


def test_a_reader_makes_the_shape_that_templates_take():
    made = Message.of("assistant", thinking="hm", tool_calls=[ToolCall("f", {"a": 1}, "c")])
    assert made.fields == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
        ],
    }


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("hello", "found 'hello'"),
        ({"content": "x"}, "role is None"),
        ({"role": "", "content": "x"}, "role is ''"),
        ({"role": "user", "content": 3}, "content is 3"),
        ({"role": "user", "content": [3]}, "part 0 of its content is 3"),
        ({"role": "assistant", "tool_calls": "f"}, "tool_calls are 'f'"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool call 0"),
        ({"role": "assistant", "thinking": ["x"]}, "thinking is"),
        ({"role": "user", "content": "a\ud83d"}, "surrogate"),
        ({"role": "user", "content": [{"text": "\udc00"}]}, "surrogate"),
    ],
)
def test_what_is_no_message_is_named(raw, words):
    with pytest.raises(InputError, match="message 1") as caught:
        parse_messages([{"role": "user", "content": "ok"}, raw])
    assert words in str(caught.value)


def test_no_messages_are_no_conversation():
    for raw in ([], "text", None):
        with pytest.raises(InputError, match="conversation"):
            parse_messages(raw)
