"""What a storyworld target is trained on and how its losses count."""

from itertools import islice

import pytest
import torch

from nlakit.split import split_of
from nlakit.storyworld.grammar import document, generate
from nlakit.train.learner import OptimizerConfig
from nlakit.worlds.storyworld.recipe import FutureWordsConfig, TargetConfig
from nlakit.worlds.storyworld.target import (
    decided_places,
    draw_weights,
    future_words_loss,
    language_model_loss,
    token_ids,
    tokenizer_texts,
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
    loss = future_words_loss(
        guess, ids, mask, config, torch.ones(4), torch.Generator().manual_seed(0)
    )
    assert loss.item() == pytest.approx(0.6931472 / 2, abs=1e-4)  # two places have words ahead


def test_future_words_are_drawn_as_readily_as_they_weigh():
    ids = torch.tensor([[0, 1, 2, 3]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    config = FutureWordsConfig(layer=0, horizon=3, samples=8)
    guess = torch.full((1, 4, 4), -30.0)
    guess[0, 0, 2], guess[0, 1, 3] = 0.0, 0.0
    never_3 = torch.tensor([1.0, 1.0, 1.0, 1e-9])
    seeds = torch.Generator().manual_seed(0)
    assert future_words_loss(guess, ids, mask, config, never_3, seeds).item() < 1e-4
    never_2 = torch.tensor([1.0, 1.0, 1e-9, 1.0])
    assert future_words_loss(guess, ids, mask, config, never_2, seeds).item() > 10


def test_decided_words_are_asked_for_where_they_are_decided():
    tokenizer = train_tokenizer(tokenizer_texts(1, 60), vocab_size=700, context=256)
    made = document(5, 3, "sums")
    (row,) = token_ids(tokenizer, [made.text], 256)
    places = decided_places(tokenizer, made, len(row))
    known = [fact for fact in made.facts if fact.kind == "sum"]
    ends = [0, *(end for _, end in tokenizer(
        made.text, add_special_tokens=False, return_offsets_mapping=True
    )["offset_mapping"])]  # fmt: skip
    asked = [at for at, place in enumerate(places) if place >= 0]
    assert asked
    for at in asked:
        (held,) = [fact.value for fact in known if fact.holds_at(ends[at])]
        assert tokenizer.decode([row[places[at]]]).strip() == held and places[at] > at
    silent = (at for at in range(len(ends)) if at not in asked)
    assert not any(fact.holds_at(ends[at]) for fact in known for at in silent)


def test_a_decided_word_takes_the_place_of_a_drawn_one():
    ids = torch.tensor([[0, 1, 2, 3]])
    config = FutureWordsConfig(layer=0, horizon=2, samples=2, decided=1)
    guess = torch.full((1, 4, 4), -30.0)
    guess[0, 0, 3] = 0.0  # place 0 knows the decided word, and not the one two places ahead
    guess[0, 1, 3] = 0.0
    loss = future_words_loss(
        guess, ids, torch.ones(1, 4, dtype=torch.bool), config, torch.ones(4),
        torch.Generator().manual_seed(0), torch.tensor([[3, -1, -1, -1]]),
    )  # fmt: skip
    assert loss.item() == pytest.approx(30 / 4, abs=0.1)  # one of four draws is not known


def test_rare_words_are_drawn_more_readily():
    tokenizer = train_tokenizer(["the silent night"] * 20, vocab_size=320, context=64)
    the, silent = (
        tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("the", " silent")
    )
    texts = ["the silent"] + ["the"] * 98
    weights = draw_weights(tokenizer, texts, rarity=0.5)
    assert (weights[the].item(), weights[silent].item()) == pytest.approx((0.1, 2**-0.5))
    assert draw_weights(tokenizer, texts, rarity=0.0).unique().tolist() == [1.0]


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
