"""A target run with an autoencoder's output in place of its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nlakit.models.families import backbone_of, blocks_of, head_of
from nlakit.models.padding import pad_right
from nlakit.models.patch import Edit, edited_at_site
from nlakit.models.target import Target

from .texts import Passage

Change = Callable[[Float[Tensor, "N D"]], Float[Tensor, "N D"]]
"""Activations to what takes their place."""


class PaddedTexts(NamedTuple):
    """Passages in one right-padded batch.

    Attributes:
        read_BT: positions whose activations are read, and replaced.
        scored_BT: positions whose next token is there, from the first one read on.
    """

    ids_BT: Int[Tensor, "B T"]
    read_BT: Bool[Tensor, "B T"]
    scored_BT: Bool[Tensor, "B T"]


class Pass(NamedTuple):
    """One forward pass of a target.

    Attributes:
        logits_SV: at the scored positions, row after row.
        blocks: residual stream B x T x D after each block from the site on.
    """

    logits_SV: Float[Tensor, "S V"]
    blocks: list[Float[Tensor, "B T D"]]


def padded(passages: Sequence[Passage], device: torch.device) -> PaddedTexts:
    """One batch of passages."""
    ids_BT = pad_right([each.encoded.ids for each in passages]).to(device)
    read_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    scored_BT = torch.zeros_like(read_BT)
    for row, passage in enumerate(passages):
        read_BT[row, passage.positions] = True
        scored_BT[row, min(passage.positions) : len(passage.encoded.ids) - 1] = True
    return PaddedTexts(ids_BT, read_BT, scored_BT)


def run_target(target: Target, texts: PaddedTexts, change: Change | None = None) -> Pass:
    """Run the target; with `change`, from the read positions' changed activations on.

    Gradients go through `change` and what comes after it, unless they are off.
    """
    backbone = backbone_of(target.model)
    # Padding is on the right, so a causal mask already keeps it from every real token.
    with (
        edited_at_site(target, changing(texts, change)),
        captured(backbone, target.site.layer) as blocks,
    ):
        hidden_BTD = backbone(input_ids=texts.ids_BT, use_cache=False).last_hidden_state
    return Pass(head_of(target.model)(hidden_BTD[texts.scored_BT]).float(), blocks)


def changing(texts: PaddedTexts, change: Change | None) -> Edit:
    """The residual stream with the read positions' activations changed."""

    def edit(residual_BTD: Tensor) -> Tensor:
        if change is None:
            return residual_BTD
        changed_ND = change(residual_BTD[texts.read_BT]).to(residual_BTD.dtype)
        return residual_BTD.masked_scatter(texts.read_BT[..., None], changed_ND)

    return edit


@contextmanager
def captured(backbone: Any, first: int) -> Iterator[list[Tensor]]:
    """While it lasts, a forward pass leaves each block's output in the list, from `first` on."""
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in list(blocks_of(backbone))[first:]]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def next_tokens(texts: PaddedTexts) -> Int[Tensor, " S"]:
    """The token after each scored position."""
    following_BT = torch.roll(texts.ids_BT, -1, dims=1)
    return following_BT[texts.scored_BT]


def scored_rows(texts: PaddedTexts) -> Int[Tensor, " S"]:
    """Which passage of the batch each scored position belongs to."""
    return texts.scored_BT.nonzero()[:, 0]
