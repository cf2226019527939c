"""How likely a target finds whole texts: whether they are language, whatever they say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlakit.core.losses import token_logprobs
from nlakit.models.families import backbone_of, head_of
from nlakit.models.padding import TOKENS_PER_BATCH, length_batches, pad_right, real_tokens
from nlakit.models.sharding import at_root, in_step
from nlakit.models.target import Target

LOGITS_AT_ONCE = 1 << 26
"""256 MB of float32."""


class TextLogprobs(NamedTuple):
    """Of N texts, on the CPU.

    Attributes:
        total_N: log-probability, nats, summed over the tokens.
        num_tokens_N: how many tokens those are: all of a text's, less the first where nothing
            stands before it.
    """

    total_N: Float[Tensor, " N"]
    num_tokens_N: Int[Tensor, " N"]


@torch.no_grad()
def text_logprobs(target: Target, texts: Sequence[str]) -> TextLogprobs:
    """The likelihood of each text under the target, which reads it as it reads a person's.

    An empty text has no tokens, and a log-probability of 0.

    Raises:
        InputError: a text is longer than the target's context.
    """
    rows = [target.encode(text).ids if text else [] for text in texts]
    total_N = torch.zeros(len(rows))
    kept = [index for index, row in enumerate(rows) if len(row) > 1]
    lengths = [len(rows[index]) for index in kept]
    batches = length_batches(lengths, TOKENS_PER_BATCH, target.model.config)
    for batch, is_own in in_step(target.model, batches, []):
        some = [kept[index] for index in batch]
        found_N = at_root(
            backbone_of(target.model),
            partial(_batch, target, [rows[index] for index in some] if is_own else [[0, 0]]),
        )
        if is_own:
            total_N[some] = found_N
    return TextLogprobs(total_N, torch.tensor([max(0, len(row) - 1) for row in rows]))


def _batch(target: Target, rows: list[list[int]]) -> Float[Tensor, " B"]:
    device = target.model.device
    ids_BT = pad_right(rows).to(device)
    # Padding is on the right, so a causal mask already keeps it from every real token.
    hidden_BTD = backbone_of(target.model)(input_ids=ids_BT, use_cache=False).last_hidden_state
    next_BT = real_tokens([len(row) for row in rows])[:, 1:].to(device)
    hidden_ND, ids_N = hidden_BTD[:, :-1][next_BT], ids_BT[:, 1:][next_BT]
    size = max(1, LOGITS_AT_ONCE // target.model.config.vocab_size)
    pairs = zip(hidden_ND.split(size), ids_N.split(size), strict=True)
    head = head_of(target.model)
    found_N = torch.cat([token_logprobs(head(h)[None], ids[None])[0] for h, ids in pairs])
    return found_N.new_zeros(next_BT.shape).masked_scatter(next_BT, found_N).sum(1).cpu()
