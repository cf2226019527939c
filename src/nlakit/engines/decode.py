"""One decode step, over the weights of a Hugging Face model of the Llama shape.

Hugging Face's own forward is right for training, but for one token it spends most of its time
outside of arithmetic. This one writes keys and values into room made ahead, fuses projections, and
stores a constant prefix once: every row attends to it, as one matrix product for all.

Shape letters: N rows, T new tokens, D d_model, H query heads, K key-value heads, G = H / K,
d head width, P prefix tokens, L cached tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nlakit.core.projection import Adapters, Maps, add_adapters, merged
from nlakit.engines.step import OneToken, Rows
from nlakit.errors import InputError
from nlakit.models.families import backbone_of, embedding_of, family_of, head_of
from nlakit.models.joined import BlockMaps, join, joined_blocks

COPY_BELOW = 1_000_000_000
"""A copy of the weights is worth its memory only for models of fewer parameters."""

PIECE, WIDE = 256, 2048
"""On a CPU a packed weight of more than `WIDE` columns is split into blocks of `PIECE`: one fits
the cache while it is used, where a whole language head is fetched at half the speed."""

GROWTH = 16
"""Tokens by which a row cache grows at least; a longer one grows by half."""


class _Tensors(NamedTuple):
    """The weights that a step reads.

    Attributes:
        copies: of the decoder's own.
        addresses: where those of the model were when they were read.
    """

    copies: list[Tensor]
    addresses: list[int]

    def alike(self, other: _Tensors) -> bool:
        """Whether the copies are of the same kind and the model's own weights where they were."""
        kinds = [[(x.shape, x.dtype, x.device) for x in each.copies] for each in (self, other)]
        return kinds[0] == kinds[1] and self.addresses == other.addresses


@dataclass(frozen=True)
class Projection:
    """Linear maps of the same input, their outputs side by side.

    Attributes:
        pieces: the maps transposed, D x n each; joined, or cut by `PIECE` where they are packed.
        bias: of all of them, or None.
        adapters: what is added to the maps, where it is not merged into them.
        widths: n of each map.
        copied: whether the pieces are copies of the weights.
    """

    pieces: tuple[Tensor, ...]
    bias: Tensor | None
    adapters: Adapters | None = None
    widths: tuple[int, ...] = ()
    copied: bool = False

    @classmethod
    def of(cls, maps: Maps, copy: bool) -> Projection:
        """Some maps as their weights are now.

        Args:
            copy: adapters are merged into a copy of the weights, and on a CPU in float32 the copy
                has the layout that is fastest there. Otherwise the weights are used where they are.
        """
        adapters = maps.adapters and maps.adapters.to(maps.weight.dtype)
        if not copy:
            return cls((maps.weight_t,), maps.bias, adapters, maps.widths)
        weight_ND = maps.weight if adapters is None else merged(maps)
        # In half precision a product is as fast on a matrix that is not transposed.
        if weight_ND.device.type != "cpu" or weight_ND.dtype != torch.float32:
            return cls((weight_ND.t(),), maps.bias, copied=adapters is not None)
        parts = weight_ND.split(PIECE) if len(weight_ND) > WIDE else [weight_ND]
        return cls(tuple(part.t().contiguous() for part in parts), maps.bias, copied=True)

    def __call__(self, x: Tensor) -> Tensor:
        output = x @ self.pieces[0] if len(self.pieces) == 1 else self._side_by_side(x)
        if self.adapters is not None or self.bias is not None:
            self._add_to_maps(x.flatten(0, -2), output.flatten(0, -2))
        return output

    @property
    def num_inputs(self) -> int:
        """D."""
        return self.pieces[0].size(0)

    def into(self, x_ND: Tensor, output: Tensor) -> None:
        """As a call, into a given tensor."""
        parts = self._parts(output) if len(self.pieces) > 1 else [output]
        for piece, part in zip(self.pieces, parts, strict=True):
            torch.mm(x_ND, piece, out=part)
        self._add_to_maps(x_ND, output)

    def add_to(self, residual: Tensor, x_ND: Tensor) -> None:
        """Add the result to a residual stream."""
        parts = self._parts(residual) if len(self.pieces) > 1 else [residual]
        for piece, part in zip(self.pieces, parts, strict=True):
            part.addmm_(x_ND, piece)
        self._add_to_maps(x_ND, residual)

    def _add_to_maps(self, x_ND: Tensor, output: Tensor) -> None:
        if self.adapters is not None:
            parts = [output] if len(self.widths) == 1 else output.split(list(self.widths), dim=1)
            add_adapters(x_ND, self.adapters, parts)
        if self.bias is not None:
            output.add_(self.bias)

    def _parts(self, output: Tensor) -> Sequence[Tensor]:
        return output.split([piece.shape[1] for piece in self.pieces], dim=1)

    def _side_by_side(self, x: Tensor) -> Tensor:
        output = x.new_empty(*x.shape[:-1], sum(piece.shape[1] for piece in self.pieces))
        rows = x.flatten(0, -2)
        for piece, part in zip(self.pieces, self._parts(output.flatten(0, -2)), strict=True):
            torch.mm(rows, piece, out=part)
        return output


@dataclass(frozen=True)
class Block:
    """The weights of one block."""

    attention_norm: Any
    qkv: Projection
    out: Projection
    mlp_norm: Any
    gate_up: Projection
    down: Projection
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the constant prefix: per block K x P x d."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        """P."""
        return self.keys[0].shape[1]


@dataclass
class RowCache:
    """Keys and values of what follows the prefix: per block rows x K x width x d.

    Zeros where nothing was written: what a mask hides still must not be NaN.
    """

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def width(self) -> int:
        """L: tokens there is room for in each row."""
        return self.keys[0].shape[2]

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens."""
        if length > self.width:
            more = (0, 0, 0, length - self.width + max(GROWTH, length // 2))
            self.keys = [F.pad(tensor, more) for tensor in self.keys]
            self.values = [F.pad(tensor, more) for tensor in self.values]


class Decoder:
    """The model's forward for decoding. Weights are read when it is made; make another after an
    optimizer step.

    Args:
        copy_below: models of fewer parameters are copied: adapters are merged, and on a CPU in
            float32 the layout is the fastest. Of a larger one no copy is made: an adapter is run
            beside each matrix, eight operations more a block, and 13 GiB less for 7 B parameters.

    Attributes:
        capturable: whether a step of one token can be recorded as a CUDA graph.
        head: residuals N x D to logits N x V.

    Raises:
        InputError: the family's blocks have another shape.
    """

    capturable = True

    def __init__(self, model: Any, copy_below: int = COPY_BELOW) -> None:
        family = family_of(model.config.model_type)
        backbone = backbone_of(model)
        joined = joined_blocks(backbone) if family.llama_shape else None
        if joined is None:
            raise InputError(f"The local engine cannot decode {family.model_type!r} models.")
        copy = sum(p.numel() for p in model.parameters()) < copy_below
        pairs = zip(getattr(backbone, family.blocks), joined, strict=True)
        self.blocks = [_read_block(layer, maps, copy) for layer, maps in pairs]
        self.norm = getattr(backbone, family.final_norm)
        self.embed = embedding_of(backbone)
        self.rotary = getattr(backbone, family.position_embedding)
        head = join([head_of(model)])
        assert head is not None, "a language head is a plain matrix"
        self.head = Projection.of(head, copy)
        attention = getattr(backbone, family.blocks)[0].self_attn
        self.head_dim: int = attention.head_dim
        self.num_kv_heads: int = attention.k_proj.out_features // self.head_dim
        self.vocabulary: int = model.config.vocab_size
        self.max_length = _max_length(model.config)
        self.device, self.dtype = model.device, model.dtype
        self._tensors: _Tensors | None = self._read_tensors()

    def take(self, newer: Decoder) -> bool:
        """Copy what another decoder of the same model read into the tensors of this one, so that
        what was recorded over them stays valid.

        Returns:
            False: they are of different kinds, or the model's own tensors have moved; then nothing
                is copied.
        """
        if (
            self._tensors is None
            or newer._tensors is None
            or not self._tensors.alike(newer._tensors)
        ):
            return False
        for mine, other in zip(self._tensors.copies, newer._tensors.copies, strict=True):
            mine.copy_(other)
        return True

    def _read_tensors(self) -> _Tensors:
        """All weights that a step reads."""
        maps, norms = [self.head], [self.norm]
        for block in self.blocks:
            maps += [block.qkv, block.out, block.gate_up, block.down]
            norms += [block.attention_norm, block.mlp_norm]
        copies, shared = [], [self.embed.weight, *(norm.weight for norm in norms)]
        for projection in maps:
            (copies if projection.copied else shared).extend(projection.pieces)
            if projection.bias is not None:
                shared.append(projection.bias)
            if projection.adapters is not None:
                given = projection.adapters
                (copies if given.cast else shared).extend([given.down, *given.ups])
        return _Tensors(copies, [each.data_ptr() for each in shared])

    def empty_prefix(self) -> Prefix:
        """A prefix of no tokens."""
        empty = torch.zeros(
            self.num_kv_heads, 0, self.head_dim, dtype=self.dtype, device=self.device
        )
        return Prefix([empty] * len(self.blocks), [empty] * len(self.blocks))

    def run_prefix(self, ids: list[int]) -> Prefix:
        """Keys and values of a prefix, to be shared by all rows."""
        cache = self.new_cache(1, len(ids))
        hidden = self.embed(torch.tensor([ids], device=self.device))
        starts = torch.zeros(1, dtype=torch.long, device=self.device)
        self.forward(hidden, starts, slice(0, 1), cache, self.empty_prefix(), len(ids))
        return Prefix([keys[0] for keys in cache.keys], [values[0] for values in cache.values])

    def new_cache(self, num_rows: int, width: int) -> RowCache:
        """Room for `width` tokens in each of `num_rows` rows."""
        size = (num_rows, self.num_kv_heads, width, self.head_dim)

        def room() -> list[Tensor]:
            return [torch.zeros(size, dtype=self.dtype, device=self.device) for _ in self.blocks]

        return RowCache(room(), room())

    def forward(
        self,
        hidden_NTD: Tensor,
        starts_N: Tensor,
        rows: slice,
        cache: RowCache,
        prefix: Prefix,
        length: int,
    ) -> Tensor:
        """Run new tokens of some rows, writing their keys and values.

        Args:
            hidden_NTD: embeddings of the new tokens.
            starts_N: how many tokens each row has in the cache already.
            rows: which rows of the cache, N of them.
            length: the longest row after this call.

        Returns:
            The normed residual of each row's last new token, N x D.
        """
        cache.reserve(length)
        num_new = hidden_NTD.shape[1]
        places_NT = starts_N[:, None] + torch.arange(num_new, device=self.device)
        cos_sin = self.rotary(hidden_NTD, places_NT + prefix.length)
        hidden_from = places_NT[:, :, None] < torch.arange(length, device=self.device)
        bias_NTL = torch.zeros_like(hidden_from, dtype=self.dtype).masked_fill_(
            hidden_from, -torch.inf
        )
        row_N1 = torch.arange(len(hidden_NTD), device=self.device)[:, None]
        for index, block in enumerate(self.blocks):
            keys, values = cache.keys[index][rows], cache.values[index][rows]
            q, k, v = self._qkv(block, block.attention_norm(hidden_NTD), cos_sin)
            keys[row_N1, :, places_NT], values[row_N1, :, places_NT] = k, v
            shared = (prefix.keys[index], prefix.values[index])
            mixed = attend(q, keys[:, :, :length], values[:, :, :length], shared, bias_NTL)
            hidden_NTD = hidden_NTD + block.out(mixed)
            hidden_NTD = hidden_NTD + _mlp(block, block.mlp_norm(hidden_NTD))
        return self.norm(hidden_NTD[:, -1])

    def one_token(self, prefix: Prefix, rows: Rows, length: int) -> Callable[[], Tensor]:
        """What runs the last token of each row, looking at `length` columns of the cache, and
        returns what may come next: R x V."""
        return OneToken(self, prefix, rows, length)

    def rotations(self, first: int, count: int) -> Tensor:
        """The rotation of a head at positions `first` on, as matrices: count x d x d.

        One small product a row is as fast as the three passes that it stands for.
        """
        d = self.head_dim
        places_1W = torch.arange(first, first + count, device=self.device)[None]
        like = torch.empty(0, dtype=torch.float32, device=self.device)
        cos_Wd, sin_Wd = (each[0] for each in self.rotary(like, places_1W))
        swapped = torch.eye(d, device=self.device).roll(d // 2, dims=1)
        signed_Wd = torch.cat([-sin_Wd[:, : d // 2], sin_Wd[:, d // 2 :]], dim=1)
        matrices_Wdd = torch.diag_embed(cos_Wd) + swapped * signed_Wd[:, None]
        return matrices_Wdd.to(self.dtype)

    def _qkv(
        self, block: Block, x_NTD: Tensor, cos_sin: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries N x T x H x d and keys, and values N x T x K x d."""
        heads = block.qkv(x_NTD).unflatten(-1, (-1, self.head_dim))
        kv = self.num_kv_heads
        rotated = _rotate(heads[:, :, :-kv], *cos_sin)
        return rotated[:, :, :-kv], rotated[:, :, -kv:], heads[:, :, -kv:]


def attend(
    q_NTHd: Tensor,
    keys_NKLd: Tensor,
    values_NKLd: Tensor,
    prefix_KPd: tuple[Tensor, Tensor],
    bias_NTL: Tensor,
) -> Tensor:
    """Softmax attention over a shared prefix and each row's own tokens: N x T x (H d).

    Args:
        prefix_KPd: keys and values that every row sees whole.
        bias_NTL: 0 where a new token sees a token of its row, -inf where not.
    """
    N, T, H, d = q_NTHd.shape
    K, L = keys_NKLd.shape[1:3]
    G, P = H // K, prefix_KPd[0].shape[1]
    q_NKTGd = (q_NTHd * d**-0.5).view(N, T, K, G, d).transpose(1, 2)
    own = torch.bmm(q_NKTGd.reshape(N * K, T * G, d), keys_NKLd.flatten(0, 1).transpose(1, 2))
    own_NKTGL = own.view(N, K, T, G, L) + bias_NTL[:, None, :, None]
    # All rows' queries against one copy of the prefix: a single product per head.
    q_KXd = q_NKTGd.transpose(0, 1).reshape(K, N * T * G, d)
    shared = torch.bmm(q_KXd, prefix_KPd[0].transpose(1, 2)).view(K, N, T, G, P)
    scores = torch.cat([shared.transpose(0, 1), own_NKTGL], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q_NTHd.dtype)
    to_own = weights[..., P:].reshape(N * K, T * G, L)
    to_shared = weights[..., :P].transpose(0, 1).reshape(K, N * T * G, P)
    mixed = torch.bmm(to_own, values_NKLd.flatten(0, 1)).view(N, K, T, G, d)
    mixed = mixed + torch.bmm(to_shared, prefix_KPd[1]).view(K, N, T, G, d).transpose(0, 1)
    return mixed.transpose(1, 2).reshape(N, T, H * d)


def _rotate(heads_NTHd: Tensor, cos_NTd: Tensor, sin_NTd: Tensor) -> Tensor:
    """Rotary positions: the two halves of a head turn by the same angles."""
    first, second = heads_NTHd.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return heads_NTHd * cos_NTd[:, :, None] + turned * sin_NTd[:, :, None]


def _mlp(block: Block, x: Tensor) -> Tensor:
    gate, up = block.gate_up(x).chunk(2, dim=-1)
    return block.down(block.activation(gate) * up)


def _read_block(layer: Any, maps: BlockMaps, copy: bool) -> Block:
    return Block(
        attention_norm=layer.input_layernorm,
        qkv=Projection.of(maps.qkv, copy),
        out=Projection.of(maps.out, copy),
        mlp_norm=layer.post_attention_layernorm,
        gate_up=Projection.of(maps.gate_up, copy),
        down=Projection.of(maps.down, copy),
        activation=layer.mlp.act_fn,
    )


def _max_length(config: Any) -> int:
    """The context, or the sliding window: within it a window changes nothing."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)
