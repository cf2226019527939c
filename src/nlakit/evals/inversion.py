"""Inversion: a text that leads the target to a given activation, sought without any verbalizer.

Whoever holds the target can look for texts instead of words about them: start from the nearest
prefix of a bank, then change its last tokens, one at a time, into others that the target finds
likely there, as long as the activation comes nearer. Nothing is trained. What a reader makes of the
text that is found is what an explanation has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from nlakit.core.fidelity import reconstruction_mse
from nlakit.core.scale import resolve_scale
from nlakit.errors import InputError
from nlakit.models.caches import repeated
from nlakit.models.families import backbone_of, head_of, truncated
from nlakit.models.target import Target


@dataclass(frozen=True)
class Search:
    """How far to look around a start.

    Attributes:
        window: how many of the last tokens may change.
        candidates: the likeliest tokens tried at each of them.
        sweeps: times that the window is gone through, from its end; fewer when nothing changes.

    A place costs at most `sweeps * (1 + window * candidates * window / length)` runs of the
    target, `length` being that of the prefix: what lies before the window runs once.
    """

    window: int = 8
    candidates: int = 24
    sweeps: int = 2


class Inverted(NamedTuple):
    """A text whose activation was brought near to a given one.

    Attributes:
        ids: token ids, BOS included where the start had it.
        activation_D: at its last token, raw, on the CPU.
        error: squared error per component, both activations at norm √D: `2 (1 - cos)`.
    """

    ids: list[int]
    activation_D: Float[Tensor, " D"]
    error: float


@torch.no_grad()
def invert(
    target: Target, vector_D: Float[Tensor, " D"], start: Sequence[int], search: Search
) -> Inverted:
    """The text nearest to `vector_D` that the search finds around `start`.

    It is never farther than `start` itself, and as long.

    Raises:
        InputError: a start of fewer than 2 tokens, of which none may change.
    """
    if len(start) < 2:
        raise InputError(f"Inversion starts from 2 tokens or more, found {len(start)}.")
    width = min(search.window, len(start) - 1)
    head, tail = list(start[:-width]), list(start[-width:])
    ahead = _Ahead(target, head, vector_D)
    best = ahead.nearest([tail])
    for _ in range(search.sweeps):
        before = best
        likely_WK = _likely_tokens(target, [*head, *best.ids], width, search.candidates)
        for place in reversed(range(width)):
            tries = [_with(best.ids, place, token) for token in likely_WK[place]]
            best = min(best, ahead.nearest(tries), key=lambda found: found.error)
        if best.ids == before.ids:
            break
    return best._replace(ids=[*head, *best.ids])


class _Ahead:
    """Activations behind a fixed head of tokens, which runs once."""

    def __init__(self, target: Target, head: Sequence[int], vector_D: Tensor) -> None:
        self.view = truncated(backbone_of(target.model), target.site.num_blocks)
        self.device = target.model.device
        self.vector_D = vector_D.to(self.device).float()
        self.scale = resolve_scale("sqrt_d_model", target.d_model)
        self.cache = DynamicCache()
        ids_1T = torch.tensor([list(head)], device=self.device)
        self.view(input_ids=ids_1T, past_key_values=self.cache, use_cache=True)

    def nearest(self, tails: Sequence[Sequence[int]]) -> Inverted:
        """Of some ways to go on, all equally long, the one whose activation is nearest."""
        ids_CW = torch.tensor([list(tail) for tail in tails], device=self.device)
        cache = repeated(self.cache, len(tails))
        output = self.view(input_ids=ids_CW, past_key_values=cache, use_cache=True)
        found_CD = output.last_hidden_state[:, -1].float()
        error_C = reconstruction_mse(self.vector_D.expand_as(found_CD), found_CD, self.scale)
        best = int(error_C.argmin())
        return Inverted(list(tails[best]), found_CD[best].cpu(), error_C[best].item())


def _likely_tokens(
    target: Target, ids: Sequence[int], width: int, candidates: int
) -> list[list[int]]:
    """For each of the last `width` tokens those that the target finds likeliest in its place."""
    ids_1T = torch.tensor([list(ids)], device=target.model.device)
    hidden_1TD = backbone_of(target.model)(input_ids=ids_1T, use_cache=False).last_hidden_state
    logits_WV = head_of(target.model)(hidden_1TD[0, -width - 1 : -1])
    return logits_WV.topk(min(candidates, logits_WV.shape[-1])).indices.tolist()


def _with(ids: Sequence[int], place: int, token: int) -> list[int]:
    return [*ids[:place], token, *ids[place + 1 :]]
