"""Trains a storyworld target from scratch, with a probe per kind of fact to see what it holds.

Documents are made on the fly: those of step `s` are a function of (seed, s).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nlakit.core.losses import masked_mean, token_logprobs
from nlakit.core.site import Site
from nlakit.evals.claims import facts_of
from nlakit.evals.probes import fit_probes
from nlakit.models.padding import pad_right, real_tokens
from nlakit.models.precision import autocast
from nlakit.models.target import Target
from nlakit.models.verbalizer import CLOSE_TAG, OPEN_TAG
from nlakit.split import split_of
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import document, generate
from nlakit.storyworld.teacher import label
from nlakit.train.learner import Learner
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.train.run import RunDirectory, generator, train_steps

from .claims import PROBED, STORYWORLD
from .documents import states_of
from .extraction import sample_storyworld
from .recipe import FutureWordsConfig, StoryworldRecipe, TargetConfig
from .tokenizer import ASSISTANT, USER, train_tokenizer

FIRST_PLACE, CONTINUATION = 30, 200
"""Characters: before the first place that is explained, and at most after a description."""
TOKENIZER_SEED, DOCUMENT_SEED, PROBE_SEED = 1, 2, 3
NOTHING = -1
"""In place of a place."""
COUNTED_DOCUMENTS = 2000
"""Whose tokens are counted, to tell rare ones."""
PROBE_DOCUMENTS, PROBE_POSITIONS, PROBE_TRAIN_SHARE = 1600, 4, 0.75


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
            **special_ids(tokenizer),
        )
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The ids of BOS, EOS and padding, as a model config takes them."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def train_documents(seed: int, step: int, count: int) -> list[Document]:
    """The documents of one step: `count` indices of the seed, without held-out ones."""
    made = (document(seed, index) for index in range(step * count, (step + 1) * count))
    return [each for each in made if split_of(each.text) == "train"]


def training_text(made: Document, config: TargetConfig) -> str:
    """A document as the target reads it, or now and then one of the two tasks on a place in it.

    The language models that NLAs are made from can describe a text, and can go on from a
    description. The target learns the same two tasks, with text where the pair will have vectors:
    the AV's prompt around a prefix, answered by the label; and the AR's prompt around the label,
    followed by what comes after the prefix.
    """
    rng = random.Random(f"{made.id}/row")
    kind = rng.random()
    if kind >= config.explain_share + config.continue_share:
        return made.text
    char_end = rng.randint(min(FIRST_PLACE, len(made.text)), len(made.text))
    char_end += len(made.text[char_end:].split(" ", 1)[0])
    prefix, explanation = made.text[:char_end], label(made, char_end).text
    if kind < config.explain_share:
        asked = AV_TEMPLATE.replace("{injection_char}", prefix)
        return f"{USER}{asked}{ASSISTANT}{OPEN_TAG}{explanation}{CLOSE_TAG}"
    return AR_TEMPLATE.replace("{explanation}", explanation) + made.text[char_end:][:CONTINUATION]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], context: int
) -> list[list[int]]:
    """BOS, the text (its role tokens are ours), EOS; cut at the context."""
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[bos, *ids, eos][:context] for ids in encoded]


def decided_places(tokenizer: PreTrainedTokenizerBase, made: Document, count: int) -> list[int]:
    """Per token of a document's row, the place of the word that is decided and not yet said.

    Of several, the one that is said first; `NOTHING` where there is none, or it is being said.

    Args:
        count: tokens of the row, which may have been cut.
    """
    encoded = tokenizer(made.text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [0, *(end for _, end in encoded["offset_mapping"])][:count]
    places = [NOTHING] * count
    planned = ((f, f.end - len(f.value)) for f in made.facts if f.planned and f.end is not None)
    # A change of language is planned as well, but by no word.
    said = [(f, start) for f, start in planned if made.text.startswith(f.value, start)]
    for fact, said_from in sorted(said, key=lambda each: each[1], reverse=True):
        # The token that says its first letter; a blank before it may belong to the same token.
        word = next((at for at, end in enumerate(ends) if end > said_from), count)
        for at in range(min(word, count)):
            if word < count and fact.holds_at(ends[at]):
                places[at] = word
    return places


def language_model_loss(logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean next-token loss over the real tokens of right-padded rows, in nats."""
    logprobs = token_logprobs(logits_BTV[:, :-1], ids_BT[:, 1:])
    return -masked_mean(logprobs, mask_BT[:, 1:])


def future_words_loss(
    guess_BTV: Tensor,
    ids_BT: Tensor,
    mask_BT: Tensor,
    config: FutureWordsConfig,
    weights_V: Tensor,
    seeds: Generator,
    decided_BT: Int[Tensor, "B T"] | None = None,
) -> Tensor:
    """Mean loss of guessing tokens drawn from 2 to `horizon` places ahead, in nats.

    Args:
        weights_V: how readily each token is drawn.
        decided_BT: of a row's tokens, the place of the word that is decided there
            (`decided_places`); None where no decided word is asked for.
    """
    batch, width = ids_BT.shape
    ahead_H = torch.arange(2, config.horizon + 1)
    place_TH = torch.arange(width)[:, None] + ahead_H
    ahead_BTH = ids_BT[:, place_TH.clamp_max(width - 1)]
    inside_BTH = place_TH < mask_BT.sum(1)[:, None, None]
    weight_BTH = weights_V[ahead_BTH] * inside_BTH
    asked_BT = mask_BT & inside_BTH.any(-1)
    # The last places of a row have nothing ahead: what is drawn for them is left out below.
    weight_NH = (weight_BTH + ~asked_BT[..., None]).flatten(0, 1)
    drawn_NS = torch.multinomial(weight_NH, config.samples, replacement=True, generator=seeds)
    drawn_BTS = ahead_BTH.gather(2, drawn_NS.view(batch, width, config.samples))
    if decided_BT is not None:
        word_BT = ids_BT.gather(1, decided_BT.clamp_min(0))
        own = slice(0, config.decided)
        is_decided_BT1 = (decided_BT >= 0)[..., None]
        drawn_BTS[..., own] = torch.where(is_decided_BT1, word_BT[..., None], drawn_BTS[..., own])
    logprobs_BTS = guess_BTV.float().log_softmax(-1).gather(2, drawn_BTS)
    return -masked_mean(logprobs_BTS.mean(-1), asked_BT)


def draw_weights(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], rarity: float
) -> Float[Tensor, " V"]:
    """How readily each token is drawn: its frequency in some texts to the power of -`rarity`."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    counts_V = torch.bincount(torch.tensor(list(chain(*encoded))), minlength=len(tokenizer))
    return (counts_V + 1.0) ** -rarity


class Losses:
    """The target's losses of one batch; holds the head that is thrown away."""

    def __init__(
        self, model: LlamaForCausalLM, config: FutureWordsConfig | None, weights_V: Tensor
    ):
        self.model, self.config, self.weights_V = model, config, weights_V
        self.head = nn.Sequential(
            nn.RMSNorm(model.config.hidden_size),
            nn.Linear(model.config.hidden_size, model.config.vocab_size),
        )

    def named_parameters(self) -> dict[str, nn.Parameter]:
        own = dict(self.model.named_parameters())
        if self.config is None:
            return own
        return own | {f"future.{name}": p for name, p in self.head.named_parameters()}

    def __call__(
        self, rows: list[list[int]], decided: list[list[int]], seeds: Generator
    ) -> dict[str, Tensor]:
        ids_BT = pad_right(rows)
        mask_BT = real_tokens([len(row) for row in rows])
        output = self.model.model(
            input_ids=ids_BT, use_cache=False, output_hidden_states=self.config is not None
        )
        logits_BTV = self.model.lm_head(output.last_hidden_state)
        losses = {"loss": language_model_loss(logits_BTV, ids_BT, mask_BT)}
        if self.config is not None:
            guess_BTV = self.head(output.hidden_states[self.config.layer + 1])
            future = future_words_loss(
                guess_BTV, ids_BT, mask_BT, self.config, self.weights_V, seeds,
                pad_right(decided, NOTHING) if self.config.decided else None,
            )  # fmt: skip
            losses["future_loss"] = future
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        if self.config is None:
            return losses["loss"]
        return losses["loss"] + self.config.weight * losses["future_loss"]


def probe_accuracies(target: Target, seed: int) -> dict[str, float]:
    """What an MLP reads of each kind of fact at the target's site, as `probe.KIND`.

    A target learns its kinds one at a time, after long plateaus that its loss does not show.
    """
    vectors, rows = sample_storyworld(target, seed, "train", PROBE_DOCUMENTS, PROBE_POSITIONS)
    known = facts_of(states_of(rows), STORYWORLD)
    cut = int(len(known) * PROBE_TRAIN_SHARE)
    found = fit_probes(vectors[:cut], known[:cut], vectors[cut:], known[cut:], PROBED)
    return {f"probe.{kind}": round(result.score.mlp, 3) for kind, result in found.items()}


def train_target(recipe: StoryworldRecipe, directory: Path) -> None:
    """Train the recipe's target into `directory/model`, unless that is done.

    Later stages read it from there, also in the process that has trained it: what is computed with
    the one in memory is not bit by bit what another process computes with the files.
    """
    run = RunDirectory(directory, recipe.stage("target"))
    if run.done is None:
        _train(recipe, run, directory / "model")


def _weights(recipe: StoryworldRecipe, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    rarity = 0.0 if recipe.target.future_words is None else recipe.target.future_words.rarity
    if rarity == 0:
        return torch.ones(len(tokenizer))
    seed = recipe.seed * 10 + TOKENIZER_SEED
    texts = (made.text for made in islice(generate(seed, "train"), COUNTED_DOCUMENTS))
    return draw_weights(tokenizer, texts, rarity)


def _train(recipe: StoryworldRecipe, run: RunDirectory, model_dir: Path) -> None:
    config = recipe.target
    texts = tokenizer_texts(recipe.seed * 10 + TOKENIZER_SEED, config.tokenizer_documents)
    tokenizer = train_tokenizer(texts, config.vocab_size, config.context)
    model = build_model(config, tokenizer, recipe.seed)
    losses_of = Losses(model, config.future_words, _weights(recipe, tokenizer))
    learner = Learner(losses_of.named_parameters(), config.optimizer, config.steps)
    seed = recipe.seed * 10 + DOCUMENT_SEED

    def step(number: int) -> dict[str, float]:
        documents = train_documents(seed, number, config.batch_size)
        texts = [training_text(each, config) for each in documents]
        rows = token_ids(tokenizer, texts, config.context)
        decided = [
            decided_places(tokenizer, each, len(row)) if text == each.text else [NOTHING] * len(row)
            for each, text, row in zip(documents, texts, rows, strict=True)
        ]
        with autocast(recipe.precision, torch.device("cpu")):
            losses = losses_of(rows, decided, generator(seed, number))
        losses_of.total(losses).backward()
        metrics = {name: loss.item() for name, loss in losses.items()}
        metrics |= {"grad_norm": learner.update(number), "tokens": float(sum(map(len, rows)))}
        if (number + 1) % config.probe_every == 0 or number + 1 == config.steps:
            target = Target(model, tokenizer, Site(recipe.extraction.layer))
            metrics |= probe_accuracies(target, recipe.seed * 10 + PROBE_SEED)
        return metrics

    train_steps(run, {"target": learner}, config.steps, step, recipe.checkpoint_every, "target")
    Target(model, tokenizer, Site(recipe.extraction.layer)).save(model_dir)
    run.finish({"steps": config.steps, "skipped": learner.skipped})
