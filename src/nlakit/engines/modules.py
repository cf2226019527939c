"""Decoding through Hugging Face's own modules, for families whose blocks `Decoder` does not know.

Slower than `Decoder`, with the same face: the modules compute everything, sliding windows and
learned positions included. Only the cache is ours, so that rows of different lengths share a batch
and a prefix. Shape letters as in `engines.decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlakit.engines.decode import Decoder, Prefix, RowCache
from nlakit.engines.step import Rows
from nlakit.models.families import backbone_of, blocks_of, embedding_of, family_of, head_of
from nlakit.models.joined import joined_blocks

SHORT_WINDOW = 1024
"""`Decoder` refuses texts beyond a sliding window; a prompt and its answer fit into this one."""


def decoder_for(model: Any, *, through_modules: bool = False) -> Decoder:
    """The fastest decoder that computes what the model's own forward does.

    Args:
        through_modules: run the model's modules whatever its family is, for the sake of hooks.
    """
    family = family_of(model.config.model_type)
    window = getattr(model.config, "sliding_window", None)
    has_short_window = window is not None and window < SHORT_WINDOW
    if through_modules or has_short_window or not family.llama_shape:
        return ModuleDecoder(model)
    # Quantized and sharded matrices, and adapters of special kinds, are run by their modules.
    if joined_blocks(backbone_of(model)) is None:
        return ModuleDecoder(model)
    return Decoder(model)


class ModuleDecoder(Decoder):
    """A `Decoder` whose forward is the model's own."""

    # The modules may look at the device's numbers, and hooks may do anything.
    capturable = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family = family_of(model.config.model_type)
        self.backbone = backbone_of(model)
        self.blocks = list(blocks_of(self.backbone))
        self.embed = embedding_of(self.backbone)
        self.head = head_of(model)
        config = model.config
        num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = getattr(config, "num_key_value_heads", None) or num_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // num_heads
        self.vocabulary: int = config.vocab_size
        self.max_length: int = config.max_position_embeddings
        self.device, self.dtype = model.device, model.dtype
        # The modules read the model's own weights as they are.
        self._tensors = None

    def forward(
        self,
        hidden_NTD: Tensor,
        starts_N: Tensor,
        rows: slice,
        cache: RowCache,
        prefix: Prefix,
        length: int,
    ) -> Tensor:
        """As `Decoder.forward`."""
        cache.reserve(length)
        places_NT = starts_N[:, None] + torch.arange(hidden_NTD.shape[1], device=self.device)
        output = self.backbone(
            inputs_embeds=hidden_NTD,
            attention_mask=self._masks(places_NT + prefix.length, prefix.length + cache.width),
            position_ids=places_NT + prefix.length,
            past_key_values=_SharedCache(prefix, cache, rows, places_NT),
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def one_token(self, prefix: Prefix, rows: Rows, length: int) -> Callable[[], Tensor]:
        """As `Decoder.one_token`."""
        # The same memory, in the order in which the modules want it.
        keys, values = (
            [x_KRWd[:, :, :length].transpose(0, 1) for x_KRWd in each]
            for each in (rows.keys, rows.values)
        )
        cache, whole = RowCache(keys, values), slice(0, rows.num_rows)

        def logits() -> Tensor:
            hidden_R1D = self.embed(rows.last_R)[:, None]
            normed_RD = self.forward(hidden_R1D, rows.lengths_R, whole, cache, prefix, length)
            return self.head(normed_RD)

        return logits

    def _masks(self, queries_NT: Tensor, num_keys: int) -> Tensor | dict[str, Tensor]:
        """Additive masks N x 1 x T x keys: one, or one per type of layer, as the family takes."""
        window: int | None = getattr(self.model.config, "sliding_window", None)
        if not self.family.masks_by_layer_type:
            return self._mask(queries_NT, num_keys, window)
        masks = {"full_attention": self._mask(queries_NT, num_keys, None)}
        if window is not None:
            masks["sliding_attention"] = self._mask(queries_NT, num_keys, window)
        return masks

    def _mask(self, queries_NT: Tensor, num_keys: int, window: int | None) -> Tensor:
        keys = torch.arange(num_keys, device=self.device)
        hidden = keys > queries_NT[..., None]
        if window is not None:
            hidden |= keys <= queries_NT[..., None] - window
        zeros = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return zeros.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None]


@dataclass(frozen=True)
class _SharedCache:
    """What a Hugging Face attention module calls `past_key_values`: it writes there, and reads all.

    Attributes:
        rows: which rows of the cache take part.
        places_NT: where in its row each new token goes.
    """

    prefix: Prefix
    cache: RowCache
    rows: slice
    places_NT: Tensor

    def update(
        self, keys_NKTd: Tensor, values_NKTd: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values of a block; returns those of prefix and rows, N x K x L x d."""
        row_N1 = torch.arange(len(self.places_NT), device=self.places_NT.device)[:, None]
        both = []
        for new_NKTd, stored, shared in (
            (keys_NKTd, self.cache.keys, self.prefix.keys),
            (values_NKTd, self.cache.values, self.prefix.values),
        ):
            own_NKLd = stored[layer_idx][self.rows]
            own_NKLd[row_N1, :, self.places_NT] = new_NKTd.transpose(1, 2).to(own_NKLd.dtype)
            prefix_NKPd = shared[layer_idx].expand(len(own_NKLd), -1, -1, -1)
            both.append(torch.cat([prefix_NKPd, own_NKLd], dim=2))
        return both[0], both[1]
