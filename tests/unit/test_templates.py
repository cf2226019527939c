"""Chat templates and tokenizer files of a checkpoint that somebody made to hurt."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
from support.serving import tiny_tokenizer

from nlakit.contract import render_chat
from nlakit.errors import CheckpointError, InputError
from nlakit.models.chat import Chat
from nlakit.models.io import load_tokenizer
from nlakit.transcript import parse_messages

USER = {"role": "user", "content": "a"}


def with_template(template: str):
    tokenizer = copy.copy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}"
TOO_MUCH = "holds or writes more than"
DOUBLES = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (LOOPS, "goes on for more than 55,"),
        (
            "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
            TOO_MUCH,
        ),
        (DOUBLES + "{{ n.x|length }}{% endfor %}", TOO_MUCH),
        (
            "{% set x = 'a' * 99999 %}{% for i in range(9999) %}{{ x }}{% endfor %}",
            TOO_MUCH,
        ),
        (
            "{% set x = [1] %}" + "{% set x = x + x %}" * 40 + "{{ x|length }}",
            TOO_MUCH,
        ),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError"),
        ("a" * (2 << 20), "more than 1,048,576 characters"),
    ],
)
def test_a_template_without_an_end_is_refused(template, found):
    with pytest.raises(InputError, match=f"chat template refuses the messages: .*{found}"):
        Chat(with_template(template), parse_messages([USER]))


def test_counting_a_templates_steps_changes_nothing():
    tokenizer = tiny_tokenizer()
    messages = [USER, {"role": "assistant", "content": "b" * 500}] * 30
    expected = tokenizer.apply_chat_template(messages, tokenize=False)
    assert render_chat(tokenizer, messages) == expected


def sparse(path: Path) -> None:
    """Half a gigabyte that takes no space."""
    path.touch()
    os.truncate(path, 1 << 29)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (os.mkfifo, "not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file"),
        (lambda path: path.symlink_to("gone"), "cannot be read|has no tokenizer_config"),
        (sparse, "bytes; at most"),
    ],
)
def test_tokenizer_files_without_an_end(tmp_path, name, spoil, found):
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    spoil(tmp_path / name)
    with pytest.raises(CheckpointError, match=found):
        load_tokenizer(tmp_path)
