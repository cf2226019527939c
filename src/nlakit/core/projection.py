"""Linear maps of one input, with or without LoRA adapters, as one step of autograd.

Each map gives `x @ weight.T + bias + scale * (x @ down.T) @ up.T`. Where PEFT's modules cast the
input and add activations for each of them, here the matrices are one product for all maps, the
adapters' first factors another, and the second ones add into the output in place. Of an adapter's
gradient nothing larger than rank R is ever made.

Shape letters: S tokens, D inputs, N outputs of a map, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function


class Adapters(NamedTuple):
    """Adapters of some of the maps, in the maps' order.

    Attributes:
        of: the number of each one's map.
        down: their first factors, one below another; `down_t` is its transpose.
        ups: their second factors, N x R each, and their transposes.
        scale: of the change they make.
        cast: whether they are a copy in another precision.
    """

    of: tuple[int, ...]
    down: Tensor
    down_t: Tensor
    ups: tuple[Tensor, ...]
    ups_t: tuple[Tensor, ...]
    scale: float
    cast: bool = False

    @classmethod
    def make(cls, of: Sequence[int], down: Tensor, ups: Sequence[Tensor], scale: float) -> Adapters:
        """With transposes made once, since each costs an operation."""
        return cls(tuple(of), down, down.t(), tuple(ups), tuple(up.t() for up in ups), scale)

    def to(self, dtype: torch.dtype) -> Adapters:
        """In the activations' precision, whatever the adapter's is."""
        if self.down.dtype == dtype:
            return self
        ups = [up.to(dtype) for up in self.ups]
        return Adapters.make(self.of, self.down.to(dtype), ups, self.scale)._replace(cast=True)

    @property
    def ranks(self) -> list[int]:
        """R of each."""
        return [up.shape[1] for up in self.ups]


class Maps(NamedTuple):
    """Linear maps of one input. Tensors here are views of the parameters, without gradients.

    Attributes:
        weight: the matrices one below another; `weight_t` is its transpose.
        widths: N of each.
        bias: the biases end to end, or None.
        parameters: what takes the gradients: the weights, the biases, and the adapters' factors,
            first all `down`, then all `up`.
    """

    weight: Tensor
    weight_t: Tensor
    widths: tuple[int, ...]
    bias: Tensor | None
    adapters: Adapters | None
    parameters: tuple[Tensor, ...]


def project(
    x_SD: Float[Tensor, "S D"],
    maps: Maps,
    residual_SN: Float[Tensor, "S N"] | None = None,
) -> Float[Tensor, "S N"]:
    """The outputs of the maps side by side, added to the residual where one is given."""
    return _Projection.apply(x_SD, residual_SN, maps, *maps.parameters)  # pyright: ignore[reportReturnType]


class _Projection(Function):
    @staticmethod
    def forward(
        ctx: Any, x_SD: Tensor, residual_SN: Tensor | None, maps: Maps, *parameters: Tensor
    ) -> Tensor:
        start = maps.bias if residual_SN is None else residual_SN
        if start is None:
            y_SN = torch.mm(x_SD, maps.weight_t)
        else:
            y_SN = torch.addmm(start, x_SD, maps.weight_t)
        if residual_SN is not None and maps.bias is not None:
            y_SN.add_(maps.bias)
        reduced_SR = None
        if maps.adapters is not None:
            reduced_SR = add_adapters(x_SD, maps.adapters, _split(y_SN, maps.widths))
        # The parameters, so that autograd notices where one has changed since.
        ctx.save_for_backward(x_SD, reduced_SR, *parameters)
        ctx.maps = maps
        return y_SN

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x_SD, reduced_SR, *_ = ctx.saved_tensors
        maps: Maps = ctx.maps
        (g_SN,) = gradients
        count, need = len(maps.widths), ctx.needs_input_grad[3:]
        dx_SD = torch.mm(g_SN, maps.weight) if ctx.needs_input_grad[0] else None
        found: list[Tensor | None] = [None] * count
        if any(need[:count]):
            found = [*_rows(torch.mm(g_SN.t(), x_SD), maps.widths)]
        if maps.bias is not None:
            trained = any(need[count : 2 * count])
            found += _rows(g_SN.sum(dim=0), maps.widths) if trained else [None] * count
        if reduced_SR is not None:
            assert maps.adapters is not None, "there is no reduced input without adapters"
            g_parts = _split(g_SN, maps.widths)
            found += _adapter_gradients(x_SD, reduced_SR, maps.adapters, g_parts, dx_SD)
        return dx_SD, g_SN if ctx.needs_input_grad[1] else None, None, *found


def merged(maps: Maps) -> Tensor:
    """A copy of the matrices with the adapters' changes in them, made in float32."""
    whole_ND = maps.weight.clone()
    if maps.adapters is None:
        return whole_ND
    rows, adapters = whole_ND.split(list(maps.widths)), maps.adapters
    downs = adapters.down.split(adapters.ranks)
    for index, down, up in zip(adapters.of, downs, adapters.ups, strict=True):
        change = adapters.scale * (up.float() @ down.float())
        rows[index].copy_(rows[index].float().add_(change))
    return whole_ND


def add_adapters(x_SD: Tensor, adapters: Adapters, outputs: Sequence[Tensor]) -> Tensor:
    """Add the adapters' changes to the outputs; returns the input in rank R."""
    given = adapters.to(x_SD.dtype)
    reduced_SR = torch.mm(x_SD, given.down_t)
    parts = _split(reduced_SR, given.ranks)
    for index, up_t, part in zip(given.of, given.ups_t, parts, strict=True):
        outputs[index].addmm_(part, up_t, alpha=given.scale)
    return reduced_SR


def _adapter_gradients(
    x_SD: Tensor,
    reduced_SR: Tensor,
    adapters: Adapters,
    g_parts: Sequence[Tensor],
    dx_SD: Tensor | None,
) -> list[Tensor]:
    """Those of all `down`, then of all `up`; adds the adapters' share to `dx_SD`."""
    given = adapters.to(x_SD.dtype)
    adapted = [g_parts[index] for index in given.of]
    through = [torch.mm(g, up) for g, up in zip(adapted, given.ups, strict=True)]
    g_SR = through[0] if len(through) == 1 else torch.cat(through, dim=1)
    if dx_SD is not None:
        dx_SD.addmm_(g_SR, given.down, alpha=given.scale)
    parts = _split(reduced_SR, given.ranks)
    return [
        *_rows(_scaled(given.down, g_SR.t(), x_SD, given.scale), given.ranks),
        *(
            _scaled(up, g.t(), part, given.scale)
            for up, g, part in zip(given.ups, adapted, parts, strict=True)
        ),
    ]


def _scaled(like: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b` in one operation: with `beta=0` what is added to is not read."""
    return torch.addmm(like, a, b, beta=0, alpha=scale)


def _split(x: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    """Columns of each width: views."""
    return (x,) if len(widths) == 1 else x.split(list(widths), dim=1)


def _rows(x: Tensor, heights: Sequence[int]) -> Sequence[Tensor]:
    """Rows of each height: views."""
    return (x,) if len(heights) == 1 else x.split(list(heights))


def side_by_side(tensors: Sequence[Tensor]) -> Tensor | None:
    """One view of tensors that follow each other in memory, joined at their first dimension; None
    where they do not."""
    first = tensors[0]
    for before, after in pairwise(tensors):
        if (
            after.untyped_storage().data_ptr() != before.untyped_storage().data_ptr()
            or after.storage_offset() != before.storage_offset() + before.numel()
            or after.dtype != first.dtype
            or after.shape[1:] != first.shape[1:]
        ):
            return None
    if not all(each.is_contiguous() for each in tensors):
        return None
    size = (sum(len(each) for each in tensors), *first.shape[1:])
    return first.detach().as_strided(size, first.stride())
