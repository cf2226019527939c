"""What a target expects next: its likeliest tokens at some positions, read with the activations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .families import backbone_of, head_of
from .padding import TOKENS_PER_BATCH, length_batches, pad_right
from .patch import edited_at_site
from .sharding import at_root
from .target import Target, check_positions


class Guess(NamedTuple):
    """A token that may follow, as text with its blanks, and its probability."""

    text: str
    probability: float


class Expected(NamedTuple):
    """What was read of P positions of one sequence.

    Attributes:
        vectors_PD: activations at the site, raw float32.
        guesses: per position the next tokens, the likeliest first.
    """

    vectors_PD: Float[Tensor, "P D"]
    guesses: list[tuple[Guess, ...]]


@torch.no_grad()
def activations_and_guesses(
    target: Target, ids: list[list[int]], positions: list[list[int]], num: int
) -> list[Expected]:
    """Activations, as `Target.activations` gives them, and `num` next tokens at each position.

    All blocks run, once; the head over the positions alone.

    Raises:
        InputError: as `Target.activations`.
    """
    check_positions(ids, positions, target.max_tokens)
    found: dict[int, Expected] = {}
    lengths = [len(row) for row in ids]
    for batch in length_batches(lengths, TOKENS_PER_BATCH, target.model.config):
        run = partial(
            _expected, target, [ids[i] for i in batch], [positions[i] for i in batch], num
        )
        found |= zip(batch, at_root(backbone_of(target.model), run), strict=True)
    return [found[index] for index in range(len(ids))]


def _expected(
    target: Target, ids: list[list[int]], positions: list[list[int]], num: int
) -> list[Expected]:
    """Of one batch."""
    seen: list[Tensor] = []

    def keep(residual_BTD: Tensor) -> Tensor:
        seen.append(residual_BTD)
        return residual_BTD

    with edited_at_site(target, keep):
        padded_BT = pad_right(ids).to(target.model.device)
        output = backbone_of(target.model)(input_ids=padded_BT, use_cache=False)
    return [
        Expected(
            seen[0][row, wanted].float(),
            _guesses(target, output.last_hidden_state[row, wanted], num),
        )
        for row, wanted in enumerate(positions)
    ]


def _guesses(target: Target, last_PD: Tensor, num: int) -> list[tuple[Guess, ...]]:
    probabilities_PV = head_of(target.model)(last_PD).float().softmax(-1)
    top = probabilities_PV.topk(min(num, probabilities_PV.shape[-1]))
    return [
        _named(target, ids, probabilities)
        for ids, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _named(target: Target, ids: Sequence[int], probabilities: Sequence[float]) -> tuple[Guess, ...]:
    texts = [str(target.tokenizer.decode([token_id])) for token_id in ids]
    return tuple(Guess(*each) for each in zip(texts, probabilities, strict=True))
