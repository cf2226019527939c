"""A circuit whose answer is known: does the latent that a rhyme word depends on stand for it?

Per word the latent whose ablation costs it most is chosen on some prompts; on others it should be
active at the last token before that word and before no other. The null is the latent of another
word.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.circuits import node_effects
from nlakit.models.target import Target
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.behaviour import Behaviour, Prompt

FEWEST = 2
"""Prompts of a word in each half."""


class WordLatent(FrozenModel):
    """One word."""

    word: str
    prompts: int
    """On which the latent is scored."""
    latent: int
    effect: float
    """On the word's own prompts, of putting the latent at its mean."""
    f1: float
    f1_of_another: float
    """Of the latent that the next word depends on."""


class RhymeLatents(FrozenModel):
    """All words of a site that have enough prompts."""

    sae: str
    layer: int
    words: tuple[WordLatent, ...]
    mean_f1: float
    mean_f1_of_another: float


def rhyme_latents(
    sae: SparseAutoencoder,
    target: Target,
    chosen_on: Sequence[Prompt],
    prompts: Sequence[Prompt],
    reference_ND: Float[Tensor, "N D"],
    name: str,
) -> RhymeLatents:
    """Choose each word's latent on some prompts and score it on others."""
    target.model.requires_grad_(False)
    behaviour = Behaviour(sae, target, chosen_on)
    nodes = behaviour.nodes(reference_ND)
    effects = node_effects(behaviour, nodes.clean, nodes.patch)
    effect_BM = behaviour.by_prompt_sum(effects)[:, :-1]
    words = [_words(target, each) for each in (chosen_on, prompts)]
    found = word_latents(effect_BM, words[0], _active(sae, target, prompts), words[1])
    return RhymeLatents(
        sae=name,
        layer=target.site.layer,
        words=tuple(found),
        mean_f1=statistics.mean(each.f1 for each in found),
        mean_f1_of_another=statistics.mean(each.f1_of_another for each in found),
    )


def word_latents(
    effect_BM: Float[Tensor, "B M"],
    words: Sequence[str],
    active_PM: Bool[Tensor, "P M"],
    others: Sequence[str],
) -> list[WordLatent]:
    """Per word its latent by effects on B prompts, and how well that says the word on P others."""
    known = [
        word for word in sorted(set(words)) if min(words.count(word), others.count(word)) >= FEWEST
    ]
    of = {w: effect_BM[torch.tensor([each == w for each in words])].mean(0) for w in known}
    latents = {word: int(effect_M.argmin()) for word, effect_M in of.items()}
    found = []
    for number, word in enumerate(known):
        is_word_P = torch.tensor([each == word for each in others])
        another = latents[known[(number + 1) % len(known)]]
        found.append(
            WordLatent(
                word=word.strip(),
                prompts=int(is_word_P.sum()),
                latent=latents[word],
                effect=of[word].min().item(),
                f1=_f1(active_PM[:, latents[word]], is_word_P),
                f1_of_another=_f1(active_PM[:, another], is_word_P),
            )
        )
    return found


def _f1(said_P: Tensor, true_P: Tensor) -> float:
    return 2 * int((said_P & true_P).sum()) / max(int(said_P.sum() + true_P.sum()), 1)


def _words(target: Target, prompts: Sequence[Prompt]) -> list[str]:
    return [str(target.tokenizer.decode([each.passage.encoded.ids[-1]])) for each in prompts]


def _active(
    sae: SparseAutoencoder, target: Target, prompts: Sequence[Prompt]
) -> Bool[Tensor, "P M"]:
    """Latents at the last token before the word."""
    passages = [each.passage for each in prompts]
    last = [[len(each.encoded.ids) - 2] for each in passages]
    found = target.activations([each.encoded.ids for each in passages], last)
    return sae.encode(torch.cat(found)).cpu() > 0
