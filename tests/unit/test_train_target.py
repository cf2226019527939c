"""What a storyworld target is trained on and how its losses count."""

from itertools import islice

import pytest
import torch

from nlakit.split import split_of
from nlakit.storyworld.grammar import generate
from nlakit.train.learner import OptimizerConfig
from nlakit.worlds.storyworld.recipe import FutureWordsConfig, TargetConfig
from nlakit.worlds.storyworld.target import (
    future_words_loss,
    language_model_loss,
    train_documents,
    training_text,
)
from nlakit.worlds.storyworld.tokenizer import train_tokenizer

CONFIG = TargetConfig(steps=1, optimizer=OptimizerConfig(lr=1e-3))


def test_no_step_trains_on_a_held_out_document():
    made = train_documents(seed=5, step=3, count=64)
    assert 40 < len(made) < 64
    assert {split_of(each.text) for each in made} == {"train"}
    assert made[0].id == train_documents(5, 3, 64)[0].id


def test_rows_are_documents_or_one_of_the_two_tasks():
    made = list(islice(generate(1, "train"), 300))
    texts = [training_text(each, CONFIG) for each in made]
    asked = [text for text in texts if text.startswith("<|user|>Activation: <concept>")]
    continued = [text for text in texts if text.startswith("Summary of the following text:")]
    plain = sum(text == each.text for text, each in zip(texts, made, strict=True))
    assert len(asked) + len(continued) + plain == 300
    assert 50 < len(asked) < 105
    assert 25 < len(continued) < 70
    assert all(text.endswith("</explanation>") for text in asked)


def test_asked_prefix_ends_where_its_label_says():
    for each in islice(generate(2, "train"), 200):
        text = training_text(each, CONFIG)
        if text.startswith("<|user|>"):
            prefix = text.partition("<concept>")[2].partition("</concept>")[0]
            assert each.text.startswith(prefix)
            assert each.text[len(prefix) :][:1] in ("", " ", "\n", ".", ",", "<", "?")


def test_language_model_loss_leaves_padding_out():
    logits = torch.zeros(2, 3, 4)
    logits[1, 1] = torch.tensor([50.0, 0, 0, 0])  # predicts padding of the short row
    ids = torch.tensor([[1, 2, 3], [1, 2, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert language_model_loss(logits, ids, mask).item() == pytest.approx(1.3862944)


def test_future_words_are_never_the_next_nor_past_the_end():
    ids = torch.tensor([[0, 1, 2, 3, 0]])
    mask = torch.tensor([[True, True, True, True, False]])
    config = FutureWordsConfig(layer=0, horizon=4, samples=64)
    guess = torch.full((1, 5, 4), -30.0)
    guess[0, 0, [2, 3]] = 0.0  # from place 0 only the tokens 2 and 3 may be drawn
    guess[0, 1, 3] = 0.0
    loss = future_words_loss(guess, ids, mask, config, torch.Generator().manual_seed(0))
    num_from_0, num_from_1 = loss_counts(ids, mask, config)
    expected = 0.6931472 * num_from_0 / (num_from_0 + num_from_1)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def loss_counts(ids, mask, config):
    """How many draws of each place fall inside the row, by the same generator."""
    seeds = torch.Generator().manual_seed(0)
    ahead = torch.randint(2, config.horizon + 1, (1, 5, config.samples), generator=seeds)
    return int((0 + ahead[0, 0] < 4).sum()), int((1 + ahead[0, 1] < 4).sum())


def test_tokenizer_accepts_any_text_and_keeps_tags_whole():
    tokenizer = train_tokenizer(["the silent night"] * 20, vocab_size=320, context=64)
    for text in ("naïve 🙂 日本語 \x00", "<explanation>x</explanation>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"][1:]) == text
    assert len(tokenizer("</explanation>", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer("㈎", add_special_tokens=False)["input_ids"]) == 1
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|bos|><|user|>hi<|assistant|>"
