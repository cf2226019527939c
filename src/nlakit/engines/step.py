"""One token in every row of a batch, on buffers that stay where they are.

Rows are padded to a fixed number, keys and values to a fixed width; every view that a step needs is
made once, and results go into buffers, so that a step is some eighteen operations a block, and can
be recorded as a CUDA graph (`engines.capture`). What lies in the rows and columns of padding is
finite and hidden.

Shape letters as in `engines.decode`; R rows, padding among them; W columns of the cache, L of them
that a step looks at; t tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nlakit.core.sampling import draw_rows

if TYPE_CHECKING:
    from nlakit.engines.decode import Block, Decoder, Prefix, RowCache

_softmax = torch.ops.aten._softmax.out
_index_put = torch.ops.aten.index_put_.default


class Choice(NamedTuple):
    """How the next token is chosen: as `core.sampling.draw_rows` takes it."""

    temperature: float
    top_p: float


@dataclass
class Rows:
    """The rows of a batch on the device.

    Attributes:
        keys, values: of each row's own tokens, per block K x R x W x d.
        bias_KRW: 0 where a row may look, else -inf; the same for all K.
        lengths_R: own tokens that are in the cache.
        counts_R: tokens of the answer that are written.
        alive_R: 1 where a row goes on, 0 where it has ended or there is none.
        last_R: the token that was written last and has not been run yet.
        uniforms_Rt: the random number of each token.
        ids_Rt, logprobs_Rt: the answer so far.
        going_V: 1, but for tokens that end every answer 0.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias_KRW: Tensor
    lengths_R: Tensor
    counts_R: Tensor
    alive_R: Tensor
    last_R: Tensor
    uniforms_Rt: Tensor
    ids_Rt: Tensor
    logprobs_Rt: Tensor
    going_V: Tensor

    @classmethod
    def empty(cls, decoder: Decoder, ending: Sequence[int], num_rows: int, width: int) -> Rows:
        """No row lives.

        Args:
            ending: tokens that end every answer.
        """
        device, kv, blocks = decoder.device, decoder.num_kv_heads, range(len(decoder.blocks))
        size = (kv, num_rows, width, decoder.head_dim)

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        going_V = torch.ones(decoder.vocabulary, dtype=torch.long)
        going_V[list(ending)] = 0
        return cls(
            keys=[zeros(*size, dtype=decoder.dtype) for _ in blocks],
            values=[zeros(*size, dtype=decoder.dtype) for _ in blocks],
            bias_KRW=zeros(kv, num_rows, width, dtype=decoder.dtype).fill_(-torch.inf),
            lengths_R=zeros(num_rows),
            counts_R=zeros(num_rows),
            alive_R=zeros(num_rows),
            last_R=zeros(num_rows),
            uniforms_Rt=zeros(num_rows, width, dtype=torch.float32),
            ids_Rt=zeros(num_rows, width),
            logprobs_Rt=zeros(num_rows, width, dtype=torch.float32),
            going_V=going_V.to(device),
        )

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.lengths_R)

    @property
    def width(self) -> int:
        """W, and t."""
        return self.bias_KRW.shape[2]

    @property
    def _by_row(self) -> list[Tensor]:
        return [
            self.lengths_R, self.counts_R, self.alive_R, self.last_R,
            self.uniforms_Rt, self.ids_Rt, self.logprobs_Rt,
        ]  # fmt: skip

    @property
    def changed(self) -> list[Tensor]:
        """What a step changes and the same step, taken again, reads. Not among them are the new
        column of the cache and of the answer: they are written again, with the same numbers."""
        return [self.bias_KRW, self.lengths_R, self.counts_R, self.alive_R, self.last_R]

    def admit(
        self, first: int, prompts: RowCache, prompt_of_N: Tensor, uniforms_Nt: Tensor
    ) -> None:
        """N rows come in from `first` on, each with the cache of its prompt."""
        rows = slice(first, first + len(prompt_of_N))
        num_prompt = prompts.keys[0].shape[2]
        for own, given in zip(
            (*self.keys, *self.values), (*prompts.keys, *prompts.values), strict=True
        ):
            own[:, rows, :num_prompt] = given[prompt_of_N].transpose(0, 1)
        self.bias_KRW[:, rows] = -torch.inf
        self.bias_KRW[:, rows, :num_prompt] = 0
        self.lengths_R[rows] = num_prompt
        self.counts_R[rows] = 0
        self.alive_R[rows] = 1
        self.uniforms_Rt[rows, : uniforms_Nt.shape[1]] = uniforms_Nt

    def write(self, rows: slice, ids_N: Tensor, logprobs_N: Tensor) -> None:
        """Put the next token of some rows down."""
        counts_N1 = self.counts_R[rows, None]
        self.ids_Rt[rows].scatter_(1, counts_N1, ids_N[:, None])
        self.logprobs_Rt[rows].scatter_(1, counts_N1, logprobs_N[:, None])
        self.last_R[rows] = ids_N
        self.counts_R[rows] += self.alive_R[rows]
        self.alive_R[rows] *= self.going_V[ids_N]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows onto others."""
        for tensor in self._by_row:
            tensor[targets] = tensor[sources]
        for tensor in (*self.keys, *self.values, self.bias_KRW):
            tensor[:, targets] = tensor[:, sources]

    def end(self, first: int) -> None:
        """No row lives from `first` on; what they write next stays within the cache."""
        self.alive_R[first:] = 0
        self.lengths_R[first:] = 0
        self.counts_R[first:] = 0

    def resized(self, num_rows: int, width: int) -> Rows:
        """The first rows and columns in new tensors, or all of them and more."""
        R, W = min(num_rows, self.num_rows), min(width, self.width)

        def made(tensor: Tensor, dims: tuple[int, ...], fill: float) -> Tensor:
            sizes = {dim: size for dim, size in zip(dims, (num_rows, width), strict=False)}
            shape = [sizes.get(dim, size) for dim, size in enumerate(tensor.shape)]
            part = tuple(
                slice(None) if dim not in sizes else slice(R if dim == dims[0] else W)
                for dim in range(tensor.ndim)
            )
            new = tensor.new_full(shape, fill)
            new[part] = tensor[part]
            return new

        by_row = {
            each.name: made(getattr(self, each.name), (0, 1), 0)
            for each in fields(self)
            if each.name.endswith(("_R", "_Rt"))
        }
        return replace(
            self,
            keys=[made(each, (1, 2), 0) for each in self.keys],
            values=[made(each, (1, 2), 0) for each in self.values],
            bias_KRW=made(self.bias_KRW, (1, 2), -torch.inf),
            **by_row,
        )


class Step:
    """Writes one token in every row.

    Args:
        logits: runs the last token of each row, R x V (`Decoder.one_token`).
        choice: how all rows choose.
    """

    def __init__(self, rows: Rows, logits: Callable[[], Tensor], choice: Choice) -> None:
        self.rows, self.logits, self.choice = rows, logits, choice
        self._counts_R1 = rows.counts_R[:, None]
        self._last_R1 = rows.last_R[:, None]

    def __call__(self) -> None:
        """Run the last token of each row, and write what comes next."""
        rows = self.rows
        uniform_R1 = rows.uniforms_Rt.gather(1, self._counts_R1)
        drawn = draw_rows(self.logits(), uniform_R1[:, 0], *self.choice)
        rows.lengths_R.add_(rows.alive_R)
        rows.last_R.copy_(drawn.ids_B)
        rows.ids_Rt.scatter_(1, self._counts_R1, self._last_R1)
        rows.logprobs_Rt.scatter_(1, self._counts_R1, drawn.logprobs_B[:, None])
        rows.counts_R.add_(rows.alive_R)
        rows.alive_R.mul_(rows.going_V.index_select(0, rows.last_R))


class _BlockViews(NamedTuple):
    """One block's weights, cache and prefix as its products take them.

    Attributes:
        keys, values: K x R x W x d, where a new token is written.
        own_keys, own_values: (K R) x d x L and (K R) x L x d.
        prefix_keys, prefix_values: K x d x P and K x P x d.
    """

    block: Block
    keys: Tensor
    values: Tensor
    own_keys: Tensor
    own_values: Tensor
    prefix_keys: Tensor
    prefix_values: Tensor


class OneToken:
    """The logits that follow each row's last token, by `Decoder`'s blocks: R x V."""

    def __init__(self, decoder: Decoder, prefix: Prefix, rows: Rows, length: int) -> None:
        self._decoder, self._rows = decoder, rows
        K, d, R = decoder.num_kv_heads, decoder.head_dim, rows.num_rows
        H = decoder.blocks[0].out.num_inputs // d
        G, P = H // K, prefix.length
        self._scale = d**-0.5
        self._table_Wdd = decoder.rotations(P, rows.width)
        self._rows_R = torch.arange(R, device=decoder.device)
        self._zero = torch.zeros((), dtype=decoder.dtype, device=decoder.device)
        self._blocks = [
            self._views(block, rows.keys[index], rows.values[index], index, prefix, length)
            for index, block in enumerate(decoder.blocks)
        ]

        def buffer(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=decoder.dtype, device=decoder.device)

        self._hidden_RD = buffer(R, decoder.embed.embedding_dim)
        self._turn_Rdd = buffer(R, d, d)
        # Queries, keys and values, and the first two of them rotated.
        self._qkv_RN = buffer(R, (H + 2 * K) * d)
        heads = self._qkv_RN.view(R, H + 2 * K, d)
        self._unturned, self._new_values = heads[:, : H + K], heads[:, H + K :].transpose(0, 1)
        self._turned = buffer(R, H + K, d)
        self._new_keys = self._turned[:, H:].transpose(0, 1)
        self._turned_queries = self._turned[:, :H].unflatten(1, (K, G)).transpose(0, 1)
        self._queries = buffer(K, R, G, d)
        self._own_queries, self._all_queries = (
            self._queries.flatten(0, 1),
            self._queries.flatten(1, 2),
        )
        # Scores of the prefix and of the row itself, side by side, and their softmax.
        self._scores, self._weights = buffer(K, R, G, P + length), buffer(K, R, G, P + length)
        self._prefix_scores, self._own_scores = self._parts(self._scores, P)
        self._prefix_weights, self._own_weights = self._parts(self._weights, P)
        self._bias = rows.bias_KRW[:, :, :length].flatten(0, 1)[:, None]
        self._mixed = buffer(K, R, G, d)
        self._own_mixed, self._all_mixed = self._mixed.flatten(0, 1), self._mixed.flatten(1, 2)
        self._mixed_RN = buffer(R, H * d)
        self._mixed_by_row = self._mixed_RN.view(R, K, G, d)
        self._mixed_by_kv = self._mixed.transpose(0, 1)
        self._gate_up_RM = buffer(R, 2 * decoder.blocks[0].down.num_inputs)
        self._gate, self._up = self._gate_up_RM.chunk(2, dim=1)

    @staticmethod
    def _views(
        block: Block, keys: Tensor, values: Tensor, index: int, prefix: Prefix, length: int
    ) -> _BlockViews:
        return _BlockViews(
            block,
            keys,
            values,
            keys[:, :, :length].flatten(0, 1).mT,
            values[:, :, :length].flatten(0, 1),
            prefix.keys[index].mT,
            prefix.values[index],
        )

    @staticmethod
    def _parts(x_KRGL: Tensor, num_prefix: int) -> tuple[Tensor, Tensor]:
        """Columns of the prefix, K x (R G) x P, and of the row itself, (K R) x G x L: views."""
        return (
            x_KRGL[..., :num_prefix].flatten(1, 2),
            x_KRGL[..., num_prefix:].flatten(0, 1),
        )

    def __call__(self) -> Tensor:
        """Run the last token of each row; writes its keys and values."""
        decoder, rows = self._decoder, self._rows
        torch.index_select(decoder.embed.weight, 0, rows.last_R, out=self._hidden_RD)
        torch.index_select(self._table_Wdd, 0, rows.lengths_R, out=self._turn_Rdd)
        # The new token sees itself.
        _index_put(rows.bias_KRW, [None, self._rows_R, rows.lengths_R], self._zero)
        for views in self._blocks:
            self._run(views)
        return decoder.head(_normed(decoder.norm, self._hidden_RD))

    def _run(self, views: _BlockViews) -> None:
        block, place = views.block, [None, self._rows_R, self._rows.lengths_R]
        block.qkv.into(_normed(block.attention_norm, self._hidden_RD), self._qkv_RN)
        torch.bmm(self._unturned, self._turn_Rdd, out=self._turned)
        _index_put(views.keys, place, self._new_keys)
        _index_put(views.values, place, self._new_values)
        self._queries.copy_(self._turned_queries)
        # With `beta=0` what is added to is not read.
        torch.baddbmm(
            self._zero,
            self._all_queries,
            views.prefix_keys,
            beta=0,
            alpha=self._scale,
            out=self._prefix_scores,
        )
        torch.baddbmm(
            self._bias, self._own_queries, views.own_keys, alpha=self._scale, out=self._own_scores
        )
        _softmax(self._scores, -1, False, out=self._weights)
        torch.bmm(self._own_weights, views.own_values, out=self._own_mixed)
        self._all_mixed.baddbmm_(self._prefix_weights, views.prefix_values)
        self._mixed_by_row.copy_(self._mixed_by_kv)
        block.out.add_to(self._hidden_RD, self._mixed_RN)
        block.gate_up.into(_normed(block.mlp_norm, self._hidden_RD), self._gate_up_RM)
        block.down.add_to(self._hidden_RD, block.activation(self._gate).mul_(self._up))


def _normed(norm: torch.nn.Module, x_RD: Tensor) -> Tensor:
    weight: Tensor = norm.weight  # pyright: ignore[reportAssignmentType]
    eps: float = norm.variance_epsilon  # pyright: ignore[reportAssignmentType]
    return F.rms_norm(x_RD, (x_RD.shape[-1],), weight, eps)
