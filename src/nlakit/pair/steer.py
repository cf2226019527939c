"""Steering by edited words: change what an explanation says, and put the difference into the model.

`AR(edited) - AR(original)` is a direction that the reconstructor has learned for the change of
words; added at the site it says whether the model uses what the words name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.core.scale import to_norm
from nlakit.engines.base import Engine
from nlakit.errors import InputError
from nlakit.models.patch import continuations, next_logprobs
from nlakit.models.target import Target

STRENGTH = 0.5
"""alpha where none is given: on the bundled pair most edits are taken up and the text stays whole
(docs/results-storyworld.md)."""

Edit = str | Mapping[str, str]
"""Words to put in place of others, or the whole new explanation."""


@dataclass(frozen=True)
class Steered:
    """What a change of words did to a continuation.

    Attributes:
        original, edited: the explanation, before and after.
        plain, steered: the target's likeliest continuation, without and with the change.
        alpha: strength, as a share of the activation's norm.
        once: whether it was added at one token alone.
        shift: length of `unit(AR(edited)) - unit(AR(original))`: near 0, the AR makes nothing of
            the edit, and what is added is noise brought to size.
        side_effect: mean KL in nats at the next token of unrelated texts: what the edit costs.
    """

    original: str
    edited: str
    plain: str
    steered: str
    alpha: float
    once: bool
    shift: float
    side_effect: float

    @property
    def changed(self) -> bool:
        """Whether the continuation is another."""
        return self.plain != self.steered


def edit_words(explanation: str, edit: Edit) -> str:
    """The explanation with whole words replaced, capitals as the edit gives them.

    Raises:
        InputError: an empty edit, a word that does not occur, or nothing changes.
    """
    if isinstance(edit, str):
        edited = edit
    else:
        _check_words(explanation, edit)
        either = "|".join(re.escape(old) for old in sorted(edit, key=len, reverse=True))
        edited = re.sub(rf"(?<!\w)(?:{either})(?!\w)", lambda found: edit[found[0]], explanation)
    if edited == explanation:
        raise InputError(f"The edit leaves the explanation as it is: {explanation!r}.")
    return edited


def _check_words(explanation: str, edit: Mapping[str, str]) -> None:
    if not edit:
        raise InputError("The edit is empty. Give a word and what to put in its place.")
    for old in edit:
        if not old or not re.search(rf"(?<!\w){re.escape(old)}(?!\w)", explanation):
            raise InputError(
                f"The edit replaces {old!r}, which the explanation does not say: {explanation!r}. "
                "Take a word from it, or give the whole new explanation."
            )


def edit_direction(
    engine: Engine, original: Sequence[str], edited: Sequence[str]
) -> Float[Tensor, "N D"]:
    """`unit(AR(edited)) - unit(AR(original))` of each pair: only an AR's direction means much."""
    rebuilt_MD = to_norm(engine.reconstruct([*original, *edited]).float().cpu(), 1.0)
    return rebuilt_MD[len(original) :] - rebuilt_MD[: len(original)]


def steering_vector(
    direction_D: Float[Tensor, " D"], activation_D: Float[Tensor, " D"], alpha: float
) -> Float[Tensor, " D"]:
    """`alpha ‖h‖ Δ / ‖Δ‖`, what is added at the site; zero where the direction is."""
    return alpha * activation_D.norm() * to_norm(direction_D, 1.0)


UNRELATED = (
    "It had rained all night, and the road to the station was",
    "To make the bread, mix the flour with warm water and",
    "The committee will meet again on Monday to",
    "She opened the letter, read it twice, and then",
)
"""Texts that have nothing to do with an edit: what a steering vector does to them is its cost."""


def side_effect(target: Target, direction_D: Float[Tensor, " D"], alpha: float) -> float:
    """Mean KL(untouched ‖ steered) at the next token of `UNRELATED`, in nats."""
    ids = [target.encode(text).ids for text in UNRELATED]
    at_last = [[len(row) - 1] for row in ids]
    vectors_ND = torch.cat([found.cpu() for found in target.activations(ids, at_last)])
    added_ND = torch.stack([steering_vector(direction_D, each, alpha) for each in vectors_ND])
    clean_NV = next_logprobs(target, ids)
    steered_NV = next_logprobs(target, ids, vectors_ND + added_ND)
    return (clean_NV.exp() * (clean_NV - steered_NV)).sum(-1).mean().item()


def steer_at(
    engine: Engine,
    target: Target,
    ids: Sequence[int],
    position: int,
    explanation: str,
    edit: Edit,
    alpha: float = STRENGTH,
    max_new_tokens: int = 20,
    *,
    once: bool = False,
) -> Steered:
    """Continue `ids` with the edit's direction added at the site, from one token on.

    Args:
        explanation: of the activation at `position`.
        alpha: strength, as a share of the activation's norm at `position`; 0 changes nothing.
        once: add it at that token alone. What the text fixes by itself, later tokens then read off
            the text again.

    Raises:
        InputError: a bad position, edit or strength.
    """
    if not -1e6 < alpha < 1e6:
        raise InputError(f"alpha must be a finite number, found {alpha}.")
    edited = edit_words(explanation, edit)
    (direction_D,) = edit_direction(engine, [explanation], [edited])
    activation_D = target.activations([list(ids)], [[position]])[0][0].cpu()
    added_D = steering_vector(direction_D, activation_D, alpha)
    added_2D = torch.stack([torch.zeros_like(added_D), added_D])
    plain, steered = continuations(
        target, [ids] * 2, added_2D, [position] * 2, max_new_tokens, once=once
    )
    return Steered(
        original=explanation,
        edited=edited,
        plain=str(target.tokenizer.decode(plain)),
        steered=str(target.tokenizer.decode(steered)),
        alpha=alpha,
        once=once,
        shift=torch.linalg.vector_norm(direction_D).item(),
        side_effect=side_effect(target, direction_D, alpha),
    )
