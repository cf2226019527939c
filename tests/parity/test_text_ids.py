"""A text's ids are those of the checkpoint's own tokenizer, whatever its family and its BOS."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import make
from tokenizers import processors

from nlakit.core.site import Site
from nlakit.errors import InputError, UnreadableError
from nlakit.models.target import Target
from nlakit.serve.schemas import PromptRequest
from nlakit.serve.tokens import prepare

FAMILIES = ("llama", "qwen2", "gemma3_text", "gpt2")
ADDED = ("nothing", "BOS", "BOS and EOS", "EOS")
WORDS = ["the cat", " ", "sat", "<s>", "</s>", "<user>", "ünïcode", "\n", "🙂", "ab\u200b", "\t\t"]


def with_added(tokenizer: Any, added: str) -> Any:
    """The tokenizer, putting something around each text."""
    made = copy.deepcopy(tokenizer)
    single = {"BOS": "<s> $A", "BOS and EOS": "<s> $A </s>", "EOS": "$A </s>"}.get(added, "$A")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return made


@pytest.fixture(scope="module", params=ADDED)
def tokenizer_of_kind(request, tokenizer) -> Any:
    return with_added(tokenizer, request.param)


@pytest.fixture(scope="module", params=FAMILIES)
def target(request, tokenizer_of_kind) -> Target:
    model = make(request.param, len(tokenizer_of_kind))
    return Target(model, tokenizer_of_kind, Site(1))


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_ids_are_the_tokenizers(target, words):
    text = "".join(words)
    tokenizer = target.tokenizer
    expected = tokenizer(text, add_special_tokens=not text.startswith("<s>"))["input_ids"]
    encoded = target.encode(text)
    assert encoded.ids == expected
    assert prepare(target, PromptRequest(text=text)).encoded == encoded
    spelled = [text[start:end] for start, end in encoded.offsets]
    assert all(token == part for token, part in zip(encoded.tokens, spelled, strict=True) if part)
    # A character of several bytes may be several tokens, each of which covers it.
    assert {at for start, end in encoded.offsets for at in range(start, end)} == {*range(len(text))}


def test_a_decoded_text_is_read_as_it_was(target):
    ids = target.encode("the cat sat").ids
    text = target.tokenizer.decode(ids)
    assert target.encode(text).ids in (ids, [*ids, 1])


def test_an_added_token_without_characters_is_named(tokenizer):
    target = Target(make("llama", len(tokenizer)), with_added(tokenizer, "BOS"), Site(1))
    encoded = target.encode("the cat")
    assert (encoded.tokens[0], encoded.offsets[0]) == ("<s>", (0, 0))


@pytest.mark.parametrize("text", ["the \ud83d cat", "\udc00"])
def test_half_of_a_surrogate_pair_is_named(tokenizer, text):
    target = Target(make("llama", len(tokenizer)), tokenizer, Site(1))
    with pytest.raises(InputError, match="half of a surrogate pair"):
        target.encode(text)


def test_a_token_past_the_embedding_is_named(tokenizer):
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<|note|>"])
    target = Target(make("llama", len(tokenizer)), larger, Site(1))
    found = f"'<|note|>', has the id {len(tokenizer)}; the target's embedding has {len(tokenizer)}"
    with pytest.raises(UnreadableError, match=found.replace("|", r"\|")):
        target.encode("the cat <|note|> sat")


def test_a_rendered_conversation_is_noticed(tokenizer):
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    marked.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    text = str(marked.apply_chat_template([{"role": "user", "content": "a cat"}], tokenize=False))
    target = Target(make("llama", len(marked)), marked, Site(1))
    prompt = prepare(target, PromptRequest(text=text))
    assert prompt.notices and "give its messages instead" in prompt.notices[0]
    chat = prepare(target, PromptRequest(messages=[{"role": "user", "content": "a cat"}],
                                         add_generation_prompt=False))  # fmt: skip
    assert prompt.encoded.ids == chat.encoded.ids and not chat.notices
