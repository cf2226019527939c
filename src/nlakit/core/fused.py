"""Pieces of a training forward with gradients written by hand: fewer passes over memory, fewer
tensors kept, and attention over packed sequences without padding.

Each equals the plain form that its docstring names. They are for CPUs in float32, where a pass over
memory costs as much as the arithmetic; accelerators have kernels of their own.

Shape letters: S packed tokens, D width, H query heads, K key-value heads, G = H / K, d head width,
N scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

CHUNK = 1 << 24
"""Logits made at once: 64 MB."""


# -- packed sequences ------------------------------------------------------------------------------
class Packing(NamedTuple):
    """Sequences end to end, after a beginning that all of them share.

    Attributes:
        shared: tokens of the beginning, the first of the pack.
        lengths: tokens of each sequence after it.
        wanted: how many of the last tokens of each sequence are asked for.
        beginning: whether the beginning's tokens are asked for as well.
    """

    shared: int
    lengths: Sequence[int]
    wanted: Sequence[int]
    beginning: bool = False

    @property
    def whole(self) -> Packing:
        """The same pack with every token asked for."""
        return self._replace(wanted=self.lengths, beginning=True)

    def places(self) -> Int[Tensor, " S"]:
        """The place of each token in its sequence, counted from the beginning's first token."""
        spans = [(0, self.shared), *((self.shared, self.shared + n) for n in self.lengths)]
        return torch.cat([torch.arange(*span) for span in spans])

    def asked(self) -> Int[Tensor, " Q"]:
        """Where in the pack the tokens stand that are asked for."""
        spans = [
            torch.arange(segment.tokens.stop - segment.wanted, segment.tokens.stop)
            for segment in self.segments()
        ]
        return torch.cat(spans)

    def segments(self) -> Iterator[Segment]:
        """The sequences of which any token is asked for; first the beginning, which shares
        nothing."""
        first, start = 0, self.shared
        if self.beginning and self.shared:
            first = self.shared
            yield Segment(0, slice(0, first), slice(0, first))
        for length, wanted in zip(self.lengths, self.wanted, strict=True):
            if wanted:
                yield Segment(
                    self.shared, slice(start, start + length), slice(first, first + wanted)
                )
            start, first = start + length, first + wanted


class Segment(NamedTuple):
    """One sequence of a pack.

    Attributes:
        shared: tokens of the beginning that it sees.
        tokens: its own, in the pack.
        queries: the last of them, among the tokens that are asked for.
    """

    shared: int
    tokens: slice
    queries: slice

    @property
    def wanted(self) -> int:
        """How many of its tokens are asked for."""
        return self.queries.stop - self.queries.start


def attend_packed(
    q_QHd: Float[Tensor, "Q H d"],
    k_SKd: Float[Tensor, "S K d"],
    v_SKd: Float[Tensor, "S K d"],
    packing: Packing,
) -> Float[Tensor, "Q _Hd"]:
    """Causal attention of the tokens asked for, each over the beginning and its own sequence.

    `torch.softmax(q @ k.T / sqrt(d) + causal) @ v`, sequence by sequence.
    """
    return _Attention.apply(q_QHd, k_SKd, v_SKd, packing)  # pyright: ignore[reportReturnType]


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q_QHd: Tensor, k_SKd: Tensor, v_SKd: Tensor, packing: Packing) -> Tensor:
        mixed_QHd = torch.empty_like(q_QHd)
        kept: list[Tensor] = []
        for segment in packing.segments():
            q, k, v = _heads(q_QHd, k_SKd, v_SKd, segment)
            weights = torch.softmax(_scores(q, k, segment), dim=-1)
            mixed_QHd[segment.queries] = _by_token(torch.bmm(weights, v), segment)
            if any(ctx.needs_input_grad):
                kept.append(weights)
        ctx.save_for_backward(q_QHd, k_SKd, v_SKd, mixed_QHd)
        ctx.packing, ctx.weights = packing, kept
        return mixed_QHd.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q_QHd, k_SKd, v_SKd, mixed_QHd = ctx.saved_tensors
        grad_QHd = gradients[0].view_as(mixed_QHd)
        along_QH1 = (grad_QHd * mixed_QHd).sum(dim=-1, keepdim=True)
        dq_QHd, dk_SKd, dv_SKd = (torch.zeros_like(each) for each in (q_QHd, k_SKd, v_SKd))
        for segment, weights in zip(ctx.packing.segments(), ctx.weights, strict=True):
            q, k, v = _heads(q_QHd, k_SKd, v_SKd, segment)
            grad = _by_head(grad_QHd[segment.queries], len(k))
            along = _by_head(along_QH1[segment.queries], len(k))
            d_scores = torch.bmm(grad, v.mT).sub_(along).mul_(weights)
            dq_QHd[segment.queries] = _by_token(torch.bmm(d_scores, k), segment)
            _add(dk_SKd, torch.bmm(d_scores.mT, q), segment)
            _add(dv_SKd, torch.bmm(weights.mT, grad), segment)
        return dq_QHd.mul_(q_QHd.shape[-1] ** -0.5), dk_SKd, dv_SKd, None


def _heads(
    q_QHd: Tensor, k_SKd: Tensor, v_SKd: Tensor, segment: Segment
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries K x (G W) x d, and keys and values K x L x d of a sequence."""
    q = _by_head(q_QHd[segment.queries] * q_QHd.shape[-1] ** -0.5, k_SKd.shape[1])
    k, v = (
        torch.cat([x[: segment.shared], x[segment.tokens]]).transpose(0, 1) for x in (k_SKd, v_SKd)
    )
    return q, k, v


def _scores(q: Tensor, k: Tensor, segment: Segment) -> Tensor:
    """K x (G W) x L, -inf where a token comes after the one that asks."""
    length = segment.tokens.stop - segment.tokens.start
    later = torch.full((segment.wanted, length), -torch.inf).triu_(1 + length - segment.wanted)
    scores = torch.bmm(q, k.mT)
    scores.view(-1, segment.wanted, k.shape[1])[:, :, -length:].add_(later)
    return scores


def _by_head(x_WHd: Tensor, num_kv_heads: int) -> Tensor:
    """W x H x d to K x (G W) x d: the queries of a key-value head are one matrix."""
    return x_WHd.transpose(0, 1).reshape(num_kv_heads, -1, x_WHd.shape[-1])


def _by_token(x: Tensor, segment: Segment) -> Tensor:
    """The inverse of `_by_head`."""
    return x.view(-1, segment.wanted, x.shape[-1]).transpose(0, 1)


def _add(total_SKd: Tensor, gradient_KLd: Tensor, segment: Segment) -> None:
    gradient_LKd = gradient_KLd.transpose(0, 1)
    total_SKd[: segment.shared] += gradient_LKd[: segment.shared]
    total_SKd[segment.tokens] += gradient_LKd[segment.shared :]


# -- parts of a block ------------------------------------------------------------------------------
def rms_norm(
    x_SD: Float[Tensor, "S D"], weight_D: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "S D"]:
    """`x * rsqrt(mean(x²) + eps) * weight`."""
    return _RmsNorm.apply(x_SD, weight_D, eps)  # pyright: ignore[reportReturnType]


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        mean_S1 = torch.linalg.vector_norm(x_SD, dim=-1, keepdim=True).square_().div_(x_SD.shape[1])
        inverse_S1 = mean_S1.add_(eps).rsqrt_()
        ctx.save_for_backward(x_SD, weight_D, inverse_S1)
        return (x_SD * inverse_S1).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x_SD, weight_D, inverse_S1 = ctx.saved_tensors
        product_SD = gradients[0] * x_SD
        d_weight_D = inverse_S1[:, 0] @ product_SD
        along_S1 = (product_SD @ weight_D)[:, None] * inverse_S1.pow(3) / x_SD.shape[1]
        d_x_SD = (gradients[0] * weight_D).mul_(inverse_S1).addcmul_(x_SD, along_S1, value=-1)
        return d_x_SD, d_weight_D, None


def swiglu(gate_SM: Float[Tensor, "S M"], up_SM: Float[Tensor, "S M"]) -> Float[Tensor, "S M"]:
    """`silu(gate) * up`."""
    return _SwiGlu.apply(gate_SM, up_SM)  # pyright: ignore[reportReturnType]


class _SwiGlu(Function):
    """The sigmoid is kept: to make it again would cost more than the rest of the gradient."""

    @staticmethod
    def forward(ctx: Any, gate_SM: Tensor, up_SM: Tensor) -> Tensor:
        sigmoid_SM = gate_SM.sigmoid()
        ctx.save_for_backward(gate_SM, up_SM, sigmoid_SM)
        return (gate_SM * sigmoid_SM).mul_(up_SM)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gate_SM, up_SM, sigmoid_SM = ctx.saved_tensors
        silu_SM = gate_SM * sigmoid_SM
        slope_SM = (sigmoid_SM + silu_SM).addcmul_(silu_SM, sigmoid_SM, value=-1)
        d_gate_SM = slope_SM.mul_(up_SM).mul_(gradients[0])
        return d_gate_SM, silu_SM.mul_(gradients[0])


def rotate(
    x_SHd: Float[Tensor, "S H d"], cos_Sd: Float[Tensor, "S d"], sin_Sd: Float[Tensor, "S d"]
) -> Float[Tensor, "S H d"]:
    """Rotary positions: `x * cos + cat(-second half, first half) * sin`.

    Both halves of `cos` and `sin` must be equal: they turn by the same angles.
    """
    half = x_SHd.shape[-1] // 2
    return _Rotation.apply(x_SHd, cos_Sd[:, None, :half], sin_Sd[:, None, :half])  # pyright: ignore[reportReturnType]


class _Rotation(Function):
    @staticmethod
    def forward(ctx: Any, x_SHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x_SHd, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, sin, -1), None, None


def _turned(x_SHd: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    first, second = x_SHd.chunk(2, dim=-1)
    turned = x_SHd.new_empty(x_SHd.shape)
    to_first, to_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)
    return turned


# -- the language head -----------------------------------------------------------------------------
def head_logprobs(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    ids_N: Int[Tensor, " N"],
    kept: int,
) -> Float[Tensor, " N"]:
    """`log_softmax(hidden @ weight.T)` at one id a row.

    Args:
        kept: how many logits may be kept for the gradient; the others are made again.
    """
    return _HeadLogprobs.apply(hidden_ND, weight_VD, ids_N, kept)  # pyright: ignore[reportReturnType]


class _HeadLogprobs(Function):
    """What is kept is `exp(logit - largest)`, in the logits' own memory. The gradient is linear in
    it, so that its rows' factors go to the small operand of each product."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, ids_N: Tensor, kept: int) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        chunks, found = [], []
        for hidden, ids in _chunks(len(weight_VD), hidden_ND, ids_N):
            logits = hidden @ weight_VD.t()
            chosen = logits.gather(1, ids[:, None])[:, 0]
            largest = logits.amax(dim=-1, keepdim=True)
            total = logits.sub_(largest).exp_().sum(dim=-1)
            log_total = total.log() + largest[:, 0]
            found.append(chosen - log_total)
            kept -= logits.numel()
            chunks.append((logits, total) if wanted and kept >= 0 else (None, log_total))
        ctx.save_for_backward(hidden_ND, weight_VD, ids_N)
        ctx.chunks = chunks
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden_ND, weight_VD, ids_N = ctx.saved_tensors
        d_hidden_ND = torch.empty_like(hidden_ND)
        d_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        parts = _chunks(len(weight_VD), hidden_ND, ids_N, gradients[0], d_hidden_ND)
        for (hidden, ids, gradient, d_hidden), (weights, total) in zip(
            parts, ctx.chunks, strict=True
        ):
            if weights is None:
                weights = (hidden @ weight_VD.t()).sub_(total[:, None]).exp_()
                factor = gradient[:, None]
            else:
                factor = (gradient / total)[:, None]
            torch.mm(weights, weight_VD, out=d_hidden).mul_(-factor)
            d_hidden.addcmul_(weight_VD[ids], gradient[:, None])
            if d_weight_VD is not None:
                d_weight_VD.addmm_(weights.t(), hidden * -factor)
                d_weight_VD.index_add_(0, ids, hidden * gradient[:, None])
        return d_hidden_ND, d_weight_VD, None, None


def _chunks(vocabulary: int, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    rows = max(1, CHUNK // vocabulary)
    return zip(*(column.split(rows) for column in columns), strict=True)
