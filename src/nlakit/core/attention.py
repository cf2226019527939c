"""Causal attention over a pack (`core.packing`): each sequence sees the shared prefix and itself.

On CUDA in half precision it is flash attention over sequences of different lengths
(`torch.nn.attention.varlen`). Elsewhere it is two batched products and a softmax over groups of
sequences of like length: measured on a CPU with AVX-512 BF16, torch's own kernel takes four times
as long in bfloat16, and as long in float32.

Shape letters: S tokens of the pack, Q queries, H query heads, K key-value heads, G = H / K,
d head width, C = 2K, P tokens of the prefix, n sequences of a group, q and k its padded queries and
keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from nlakit.core.packing import Packing, Segment, spans

SHORTEST = 0.6
"""A sequence joins a group when it has at least this share of the longest one's tokens: padding
costs attention only, a seventh of a block's time, and each group costs some sixty operations."""

_softmax_gradient = torch.ops.aten._softmax_backward_data

Attention = Callable[[Tensor, Tensor], Tensor]
"""Queries Q x H x d, and keys followed by values, S x 2K x d, to what is mixed, Q x (H d)."""


def attention_over(
    packing: Packing, dtype: torch.dtype, device: torch.device, head_dim: int
) -> Attention:
    """The attention of the tokens that a packing wants, with its indices made once for all blocks.

    Args:
        dtype: of queries, keys and values.
    """
    if _takes_varlen(dtype, device, head_dim):
        return _Varlen.of(packing, device)
    return _Groups(tuple(_groups(packing, dtype, device)), _order(packing, device))


# -- groups of sequences of like length ------------------------------------------------------------
class _Group(NamedTuple):
    """Sequences as one padded batch; padding repeats a sequence's last token.

    Attributes:
        num_sequences: n.
        num_queries: q.
        queries: which queries they are, n q of them; a slice where none is padding.
        keys: which of the pack's tokens their own ones are, n (k - P) of them; likewise.
        bias: 0 where a query sees a key, else -inf: n x 1 x q x k, or 1 x 1 x q x k where all
            sequences are alike.
        shared: P; 0 in a group of the prefix alone.
    """

    num_sequences: int
    num_queries: int
    queries: Tensor | slice
    keys: Tensor | slice
    bias: Tensor
    shared: int


class _Groups(NamedTuple):
    """Attention one group after another.

    Attributes:
        order_Q: where among the groups' outputs each query's is; None: in that order.
    """

    groups: tuple[_Group, ...]
    order_Q: Tensor | None

    def __call__(self, q_QHd: Tensor, kv_SCd: Tensor) -> Tensor:
        return _Attention.apply(q_QHd, kv_SCd, self)  # pyright: ignore[reportReturnType]

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """The groups' padded outputs as one row a query."""
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return whole if self.order_Q is None else whole.index_select(0, self.order_Q)

    def scatter(self, x_QHd: Tensor) -> Sequence[Tensor]:
        """The inverse of `gather`, with zeros for padding."""
        sizes = [each.num_sequences * each.num_queries for each in self.groups]
        if self.order_Q is not None:
            padded = x_QHd.new_zeros(sum(sizes), *x_QHd.shape[1:])
            x_QHd = padded.index_copy_(0, self.order_Q, x_QHd)
        return [x_QHd] if len(sizes) == 1 else x_QHd.split(sizes)


class _Attention(Function):
    """`softmax(scale * q @ k.T + bias) @ v` of each group, with its gradient."""

    @staticmethod
    def forward(ctx: Any, q_QHd: Tensor, kv_SCd: Tensor, groups: _Groups) -> Tensor:
        scale, mixed, kept = q_QHd.shape[-1] ** -0.5, [], []
        for group in groups.groups:
            q = _queries(_take(q_QHd, group.queries), group, kv_SCd.shape[1] // 2)
            k, v = _keys(kv_SCd, group)
            scores = _scaled(q, k.mT, scale).view(group.num_sequences, -1, *group.bias.shape[2:])
            weights = torch.softmax(scores.add_(group.bias), dim=-1).view(len(q), -1, k.shape[1])
            mixed.append(_by_token(torch.bmm(weights, v), group))
            kept += [q, k, v, weights]
        ctx.save_for_backward(*kept)
        ctx.groups, ctx.scale, ctx.size = groups, scale, kv_SCd.shape
        return groups.gather(mixed).flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        groups: _Groups = ctx.groups
        scale, (_, num_both, d), kept = ctx.scale, ctx.size, ctx.saved_tensors
        d_kv_SCd, found = gradients[0].new_zeros(ctx.size), []
        parts = groups.scatter(gradients[0].unflatten(1, (-1, d)))
        for number, (group, part) in enumerate(zip(groups.groups, parts, strict=True)):
            q, k, v, weights = kept[4 * number : 4 * number + 4]
            g = _queries(part, group, num_both // 2)
            d_weights = torch.bmm(g, v.mT)
            d_scores = _softmax_gradient(d_weights, weights, -1, weights.dtype)
            found.append(_by_token(_scaled(d_scores, k, scale), group))
            d_kv = torch.stack([_scaled(d_scores.mT, q, scale), torch.bmm(weights.mT, g)])
            _add(d_kv_SCd, d_kv, group)
        return groups.gather(found), d_kv_SCd, None


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b`, batched, in one operation: with `beta=0` what is added to is not read."""
    return torch.baddbmm(a[:1, :1, :1], a, b, beta=0, alpha=scale)


def _queries(x_NHd: Tensor, group: _Group, num_kv: int) -> Tensor:
    """(n q) x H x d to (n K) x (G q) x d: a key-value head's queries are one matrix, so that its
    keys are read once."""
    n, (_, H, d) = group.num_sequences, x_NHd.shape
    x = x_NHd.view(n, group.num_queries, num_kv, H // num_kv, d).permute(0, 2, 3, 1, 4)
    return x.reshape(n * num_kv, -1, d)


def _by_token(x: Tensor, group: _Group) -> Tensor:
    """The inverse of `_queries`."""
    heads = x.view(group.num_sequences, -1, group.num_queries, x.shape[-1])
    return heads.transpose(1, 2).flatten(0, 1)


def _keys(kv_SCd: Tensor, group: _Group) -> tuple[Tensor, Tensor]:
    """Keys and values, (n K) x k x d each: the prefix's before each sequence's own."""
    n, (_, num_both, d) = group.num_sequences, kv_SCd.shape
    own = _take(kv_SCd, group.keys).view(n, -1, num_both, d)
    if group.shared:
        own = torch.cat([kv_SCd[: group.shared].expand(n, -1, -1, -1), own], dim=1)
    apart = own.unflatten(2, (2, -1)).permute(2, 0, 3, 1, 4)
    keys, values = apart.reshape(2, -1, own.shape[1], d)
    return keys, values


def _add(total_SCd: Tensor, gradient: Tensor, group: _Group) -> None:
    """Add the gradient of `_keys`, 2 x (n K) x k x d, to that of the tokens; the prefix's is a sum
    over sequences, which `sum` adds up in float32."""
    n, (_, num_both, d) = group.num_sequences, total_SCd.shape
    by_token = gradient.view(2, n, num_both // 2, -1, d).permute(1, 3, 0, 2, 4)
    shared = group.shared
    if shared:
        total_SCd[:shared] += by_token[:, :shared].sum(dim=0).view(shared, num_both, d)
    own = by_token[:, shared:].reshape(-1, num_both, d)
    if isinstance(group.keys, slice):
        total_SCd[group.keys] += own
    else:
        # Padding repeats a token, with a gradient of zero.
        total_SCd.index_add_(0, group.keys, own)


def _take(x: Tensor, index: Tensor | slice) -> Tensor:
    return x[index] if isinstance(index, slice) else x.index_select(0, index)


def _groups(packing: Packing, dtype: torch.dtype, device: torch.device) -> Iterator[_Group]:
    for segments, firsts in _alike(packing):
        most = max(each.wanted for each in segments)
        longest = max(each.length for each in segments)
        prefix = max(each.shared for each in segments)
        shared, starts, stops, wanted = torch.tensor(segments).T
        lengths, key = stops - starts, torch.arange(longest)
        query = torch.arange(most).minimum(wanted[:, None] - 1)
        hidden = key > ((lengths - wanted)[:, None] + query)[..., None]
        # The prefix itself has no prefix before it.
        hidden_n1qk = torch.cat(
            [(shared == 0).view(-1, 1, 1).expand(-1, most, prefix), hidden], dim=-1
        )[:, None]
        if len({(each.shared, each.length, each.wanted) for each in segments}) == 1:
            hidden_n1qk = hidden_n1qk[:1]
        bias = torch.zeros(hidden_n1qk.shape, dtype=dtype).masked_fill_(hidden_n1qk, -torch.inf)
        own = starts[:, None] + key.minimum(lengths[:, None] - 1)
        yield _Group(
            len(segments),
            most,
            _index((torch.tensor(firsts)[:, None] + query).flatten(), device),
            _index(own.flatten(), device),
            to_device(bias, device),
            prefix,
        )


def _alike(packing: Packing) -> Iterator[tuple[list[Segment], list[int]]]:
    """Segments of like length, in order, with the number of each one's first query."""
    segments = list(packing.segments())
    firsts = [0, *accumulate(each.wanted for each in segments)]
    order = sorted(range(len(segments)), key=lambda index: -segments[index].length)
    start = 0
    while start < len(order):
        shortest = SHORTEST * segments[order[start]].length
        stop = start + 1
        while stop < len(order) and segments[order[stop]].length >= shortest:
            stop += 1
        # In order, so that sequences of one length need no index.
        chosen = sorted(order[start:stop])
        yield [segments[index] for index in chosen], [firsts[index] for index in chosen]
        start = stop


def _order(packing: Packing, device: torch.device) -> Tensor | None:
    """Where among the outputs of `_groups`, end to end, each query's is."""
    starts, firsts, wanted, offset = [], [], [], 0
    for segments, group_firsts in _alike(packing):
        most = max(each.wanted for each in segments)
        starts += range(offset, offset + most * len(segments), most)
        offset += most * len(segments)
        firsts += group_firsts
        wanted += [each.wanted for each in segments]
    order_Q = torch.empty(sum(wanted), dtype=torch.long)
    order_Q[spans(firsts, wanted)] = spans(starts, wanted)
    if offset == len(order_Q) and torch.equal(order_Q, torch.arange(offset)):
        return None
    return to_device(order_Q, device)


def _index(index_N: Tensor, device: torch.device) -> Tensor | slice:
    """The index, or the slice that selects the same."""
    first = int(index_N[0])
    if torch.equal(index_N, torch.arange(first, first + len(index_N))):
        return slice(first, first + len(index_N))
    return to_device(index_N, device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; the copy is not waited for."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# -- sequences of any length, by flash attention ---------------------------------------------------
class _Varlen(NamedTuple):
    """Attention by one kernel.

    Attributes:
        key_index: of the keys with the prefix repeated for each sequence before them, those of
            each sequence in turn; None where no prefix is shared.
        copies: how many sequences share the prefix.
        queries, keys: where each sequence's begin, and where the last one's end.
        longest: the most queries and the most keys of a sequence.
    """

    key_index: Tensor | None
    shared: int
    copies: int
    queries: Tensor
    keys: Tensor
    longest: tuple[int, int]

    @classmethod
    def of(cls, packing: Packing, device: torch.device) -> _Varlen:
        """The indices of a packing."""
        segments = list(packing.segments())
        key_index, copies = varlen_keys(segments, packing.shared)
        sizes = [[each.wanted for each in segments], [e.shared + e.length for e in segments]]
        queries, keys = (
            to_device(torch.tensor([0, *each]).cumsum(0).to(torch.int32), device) for each in sizes
        )
        index = None if copies == 0 else to_device(key_index, device)
        return cls(index, packing.shared, copies, queries, keys, (max(sizes[0]), max(sizes[1])))

    def __call__(self, q_QHd: Tensor, kv_SCd: Tensor) -> Tensor:
        # Imported here: it registers operators, which takes a while.
        from torch.nn.attention.varlen import varlen_attn

        k, v = self._repeated(kv_SCd).chunk(2, dim=1)
        mixed: Any = varlen_attn(
            q_QHd.contiguous(), k, v, self.queries, self.keys, *self.longest, **_causal()
        )
        return mixed.flatten(1)

    def _repeated(self, x_SCd: Tensor) -> Tensor:
        if self.key_index is None:
            return x_SCd
        # `expand` sums the sequences' gradients in float32; an index would add them in bfloat16.
        shared = x_SCd[: self.shared].expand(self.copies, -1, -1, -1).flatten(0, 1)
        return torch.cat([shared, x_SCd]).index_select(0, self.key_index)


def varlen_keys(segments: Sequence[Segment], shared: int) -> tuple[Tensor, int]:
    """Which keys each sequence sees, one sequence after another, and how many share the prefix.

    They count through `copies` prefixes and then the pack; none of them comes twice, so that no
    two gradients are added up by the index.
    """
    copies = sum(each.shared > 0 for each in segments)
    starts, lengths, copy = [], [], 0
    for segment in segments:
        if segment.shared:
            starts.append(copy * shared)
            lengths.append(shared)
            copy += 1
        starts.append(segment.start + copies * shared)
        lengths.append(segment.length)
    return spans(starts, lengths), copies


@cache
def _causal() -> dict[str, Any]:
    """How this torch is told that attention is causal, and that key-value heads are shared."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    told: dict[str, Any] = {"window_size": (-1, 0)}
    if "is_causal" in known:
        told = {"is_causal": True}
    return told | ({"enable_gqa": True} if "enable_gqa" in known else {})


def _takes_varlen(dtype: torch.dtype, device: torch.device, head_dim: int) -> bool:
    """Flash attention wants half precision, heads of at most 256 in steps of 8, and Ampere on."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return (
        head_dim % 8 == 0 and head_dim <= 256 and torch.cuda.get_device_capability(device) >= (8,)
    )
