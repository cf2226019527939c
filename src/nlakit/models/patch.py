"""A target run with its activation at the site changed: what a vector does, not what it says.

The change hangs on the model itself for as long as the run lasts: nobody else may run it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.core.inject import check_vectors, replace_rows
from nlakit.errors import InputError
from nlakit.models.families import backbone_of, family_of, head_of
from nlakit.models.padding import TOKENS_PER_BATCH, length_batches, pad_right
from nlakit.models.target import Target

Edit = Callable[[Float[Tensor, "B T D"]], Float[Tensor, "B T D"]]
"""The residual stream at the site, to what takes its place."""


@contextmanager
def edited_at_site(target: Target, edit: Edit) -> Iterator[None]:
    """While it lasts every forward pass of the target's model goes on from `edit(residual)`."""
    backbone = backbone_of(target.model)
    blocks = getattr(backbone, family_of(backbone.config.model_type).blocks)

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = blocks[target.site.layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def next_logprobs(
    target: Target,
    ids: Sequence[Sequence[int]],
    vectors_ND: Float[Tensor, "N D"] | None = None,
) -> Float[Tensor, "N V"]:
    """Log-probability of every token after each of N sequences.

    Args:
        vectors_ND: what takes the activation's place at each sequence's last token, raw, as the
            site gives it; None leaves the target alone.

    Raises:
        InputError: vectors of a wrong shape, or not finite.
    """
    if vectors_ND is not None:
        check_vectors(vectors_ND, target.d_model)
        if len(vectors_ND) != len(ids):
            raise InputError(f"{len(ids)} sequences were given with {len(vectors_ND)} vectors.")
    found: dict[int, Tensor] = {}
    lengths = [len(row) for row in ids]
    for batch in length_batches(lengths, TOKENS_PER_BATCH, target.model.config):
        chosen_BD = None if vectors_ND is None else vectors_ND[batch]
        logits_BV = _last_logits(target, [ids[index] for index in batch], chosen_BD)
        found |= dict(zip(batch, logits_BV.log_softmax(-1).cpu(), strict=True))
    return torch.stack([found[index] for index in range(len(ids))])


def _last_logits(
    target: Target, ids: Sequence[Sequence[int]], vectors_BD: Float[Tensor, "B D"] | None
) -> Float[Tensor, "B V"]:
    device = target.model.device
    padded_BT = pad_right(ids).to(device)
    last_B = torch.tensor([len(row) - 1 for row in ids], device=device)

    def edit(residual_BTD: Tensor) -> Tensor:
        if vectors_BD is None:
            return residual_BTD
        return replace_rows(residual_BTD, last_B, vectors_BD)

    with edited_at_site(target, edit):
        # Padding is on the right, so a causal mask already keeps it from every real token.
        hidden_BTD = backbone_of(target.model)(
            input_ids=padded_BT, use_cache=False
        ).last_hidden_state
    last_BD = hidden_BTD[torch.arange(len(ids), device=device), last_B]
    return head_of(target.model)(last_BD).float()


@torch.no_grad()
def continuations(
    target: Target,
    ids: Sequence[Sequence[int]],
    added_ND: Float[Tensor, "N D"] | None = None,
    positions: Sequence[int] | None = None,
    max_new_tokens: int = 20,
    *,
    once: bool = True,
) -> list[list[int]]:
    """The likeliest tokens after each of N sequences, one by one, up to EOS or the context's end.

    Args:
        added_ND: added to the activation at one token of each: later ones attend to it.
        positions: those tokens; by default each sequence's last.
        once: False adds it at every later token too, those that are written included.

    Raises:
        InputError: no token to go on from, or a position outside its sequence.
    """
    places = [len(row) - 1 for row in ids] if positions is None else list(positions)
    for row, place in zip(ids, places, strict=True):
        if not 0 <= place < len(row):
            raise InputError(f"Position {place} was asked of a sequence of {len(row)} tokens.")
    width = max(len(row) for row in ids)
    # Filled up on the left, so that all rows write their next token in the same column.
    lead_B = torch.tensor([width - len(row) for row in ids], device=target.model.device)
    place_B = lead_B + torch.tensor(places, device=lead_B.device)
    step_BT = pad_right([[0] * (width - len(row)) + list(row) for row in ids]).to(lead_B.device)
    written, cache = step_BT[:, :0], None
    for number in range(min(max_new_tokens, target.max_tokens - width)):
        column_T = torch.arange(width + number, device=lead_B.device)
        real_BT = column_T >= lead_B[:, None]
        place_BT = (column_T - lead_B[:, None]).clamp_min(0)[:, -step_BT.shape[1] :]
        added_BD = None if once and cache is not None else added_ND
        end_B = place_B if once else torch.full_like(place_B, width + number - 1)
        changed_BT = (column_T >= place_B[:, None]) & (column_T <= end_B[:, None])
        with edited_at_site(target, _adding(added_BD, changed_BT[:, -step_BT.shape[1] :])):
            output = target.model(
                input_ids=step_BT,
                attention_mask=real_BT.long(),
                position_ids=place_BT,
                past_key_values=cache,
                use_cache=True,
            )
        cache, step_BT = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
        written = torch.cat([written, step_BT], dim=1)
    eos: Any = target.tokenizer.eos_token_id
    return [_up_to(row, eos) for row in written.tolist()]


def _adding(added_BD: Tensor | None, changed_BT: Tensor) -> Edit:
    def edit(residual_BTD: Tensor) -> Tensor:
        if added_BD is None:
            return residual_BTD
        added_B1D = added_BD.to(residual_BTD)[:, None]
        return torch.where(changed_BT[..., None], residual_BTD + added_B1D, residual_BTD)

    return edit


def _up_to(ids: list[int], eos: int | None) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos is not None and eos in ids else ids
