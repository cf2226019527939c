"""Trains a storyworld target from scratch, with a probe per kind of fact to see what it holds.

Documents are made on the fly: those of step `s` are a function of (seed, s).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nlakit.core.site import Site
from nlakit.models.target import Target
from nlakit.storyworld.document import Document, split_of
from nlakit.storyworld.grammar import document, generate
from nlakit.storyworld.teacher import label

from .evaluation import probe_accuracies
from .learner import Learner, autocast
from .prompts import AR_TEMPLATE, AV_TEMPLATE
from .recipe import Recipe, TargetConfig
from .run import RunDirectory, train_steps
from .tokenizer import train_tokenizer

TOKENIZER_SEED, DOCUMENT_SEED, PROBE_SEED = 1, 2, 3


def tokenizer_texts(seed: int, num_documents: int) -> Iterator[str]:
    """Documents, an explanation of a place in each, and now and then the two prompts around it."""
    for made in islice(generate(seed, "train"), num_documents):
        yield made.text
        rng = random.Random(made.id)
        explanation = label(made, rng.randint(10, len(made.text))).text
        yield explanation
        if rng.random() < 0.05:
            yield AV_TEMPLATE.replace("{injection_char}", " ")
            yield AR_TEMPLATE.replace("{explanation}", explanation)


def build_model(
    config: TargetConfig, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_documents(seed: int, step: int, count: int) -> list[Document]:
    """The documents of one step: `count` indices of the seed, less those of the held-out split."""
    made = (document(seed, index) for index in range(step * count, (step + 1) * count))
    return [each for each in made if split_of(each.text) == "train"]


def token_ids(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], context: int
) -> list[list[int]]:
    """BOS, the text (its role tokens are ours), EOS; cut at the context."""
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[bos, *ids, eos][:context] for ids in encoded]


def padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def language_model_loss(model: LlamaForCausalLM, rows: list[list[int]]) -> Tensor:
    """Mean next-token loss over the real tokens of right-padded rows."""
    ids = padded(rows, model.config.pad_token_id)
    labels = padded(rows, -100)
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def train_target(recipe: Recipe, directory: Path) -> Target:
    """Train, or load when done, the recipe's target. The directory `directory/model` is the
    result."""
    run = RunDirectory(directory, recipe.stage("target"))
    model_dir = directory / "model"
    if run.done is None:
        _train(recipe, run, model_dir)
    return Target.load(model_dir, layer=recipe.extraction.layer)


def _train(recipe: Recipe, run: RunDirectory, model_dir: Path) -> None:
    config = recipe.target
    texts = tokenizer_texts(recipe.seed * 10 + TOKENIZER_SEED, config.tokenizer_documents)
    tokenizer = train_tokenizer(texts, config.vocab_size, config.context)
    model = build_model(config, tokenizer, recipe.seed)
    learner = Learner(dict(model.named_parameters()), config.optimizer, config.steps)
    seed = recipe.seed * 10 + DOCUMENT_SEED

    def step(number: int) -> dict[str, float]:
        documents = train_documents(seed, number, config.batch_size)
        rows = token_ids(tokenizer, [each.text for each in documents], config.context)
        with autocast(recipe.precision, torch.device("cpu")):
            loss = language_model_loss(model, rows)
        loss.backward()
        norm = learner.update(number)
        metrics = {"loss": loss.item(), "grad_norm": norm, "tokens": float(sum(map(len, rows)))}
        if (number + 1) % config.probe_every == 0 or number + 1 == config.steps:
            target = Target(model, tokenizer, Site(recipe.extraction.layer))
            metrics |= probe_accuracies(target, recipe.seed * 10 + PROBE_SEED)
        return metrics

    train_steps(run, {"target": learner}, config.steps, step, recipe.checkpoint_every, "target")
    Target(model, tokenizer, Site(recipe.extraction.layer)).save(model_dir)
    run.finish({"steps": config.steps, "skipped": learner.skipped})
