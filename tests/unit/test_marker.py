"""The character that stands for a vector: one token, rare, and kept by the chat template."""

from __future__ import annotations

import pytest
from support.gguf_files import CHAT, byte_level
from support.serving import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from nlakit.contract import find_marker
from nlakit.errors import ConfigError, ContractError
from nlakit.train.prompts import AR_TEMPLATE, INSTRUCTED_AV_TEMPLATE, model_tokens

TEMPLATES = (INSTRUCTED_AV_TEMPLATE, AR_TEMPLATE)


def tokenizer_with(*tokens: str, template: str = CHAT) -> PreTrainedTokenizerFast:
    backend = byte_level()
    backend.add_tokens(list(tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", chat_template=template
    )


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("█", "㈜", "■"), "㈜"),
        (("█", "■", "é", "ж", "\u0301"), "■"),
        (("ж", "x́", "█ █", "█", "\u2800", "\ufffd", "\ue000"), "█"),
        (("ж", "字"), "字"),
    ],
)
def test_the_rarest_character_that_fits(tokens, expected):
    tokenizer = tokenizer_with(*tokens)
    found, measured = find_marker(tokenizer, *TEMPLATES)
    assert (found, measured.injection_char) == (expected, expected)
    assert tokenizer.encode(found, add_special_tokens=False) == [measured.injection_token_id]


def test_one_that_the_template_drops_or_doubles_is_passed_over():
    template = CHAT.replace("{{ m.content }}", "{{ m.content.replace('㈜', '') }}■")
    assert find_marker(tokenizer_with("㈜", "■", "█", template=template), *TEMPLATES)[0] == "█"


def test_none_in_the_whole_vocabulary():
    with pytest.raises(ContractError, match="0 characters that are one token"):
        find_marker(tokenizer_with(), *TEMPLATES)
    with pytest.raises(ConfigError, match=r"marker = 'auto' cannot stand.*Give target.marker=CHA"):
        model_tokens(tokenizer_with(), "auto", "base", "recipe")


def test_a_recipe_finds_it_and_a_wrong_one_is_told_another():
    tokens = model_tokens(tokenizer_with("█"), "auto", "base", "recipe")
    assert tokens.injection_char == "█"
    with pytest.raises(ConfigError, match=r"Give target.marker=█\."):
        model_tokens(tokenizer_with("█"), "㈜", "base", "recipe")


def test_the_storyworlds_tokenizer_has_one():
    assert find_marker(tiny_tokenizer(), *TEMPLATES)[0]
