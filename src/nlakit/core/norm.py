"""Root-mean-square normalisation of the residual stream."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function


def rms_norm(
    x_SD: Float[Tensor, "S D"], weight_D: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "S D"]:
    """`x / sqrt(mean(x²) + eps) * weight`, computed in float32 at least.

    torch has a kernel for it on CUDA. On a CPU it is some ten operations there and twice as many
    for the gradient, which takes three times as long as this one does.
    """
    if x_SD.device.type == "cuda":
        return F.rms_norm(x_SD, (len(weight_D),), weight_D, eps)
    return _RmsNorm.apply(x_SD, weight_D, eps)  # pyright: ignore[reportReturnType]


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        # Of half precision in float32; None is the dtype's own.
        wide = torch.float32 if x_SD.dtype.itemsize == 2 else None
        norm_S1 = torch.linalg.vector_norm(x_SD, dim=-1, keepdim=True, dtype=wide)
        inverse_S1 = norm_S1.square_().div_(x_SD.shape[1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_SD, weight_D, inverse_S1)
        return (x_SD * inverse_S1).mul_(weight_D).to(x_SD.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x_SD, weight_D, inverse_S1 = ctx.saved_tensors
        unit_SD = x_SD * inverse_S1
        d_weight_D = (gradients[0] * unit_SD).sum(dim=0) if ctx.needs_input_grad[1] else None
        d_unit_SD = gradients[0].to(unit_SD.dtype) * weight_D
        along_S1 = (d_unit_SD * unit_SD).mean(dim=-1, keepdim=True)
        d_x_SD = d_unit_SD.addcmul_(unit_SD, along_S1, value=-1).mul_(inverse_S1)
        return d_x_SD.to(x_SD.dtype), d_weight_D, None
