"""A training forward over packed sequences: no padding, and a shared beginning that is run once.

For blocks of the Llama shape, on a CPU in float32; elsewhere `fits` says no, and Hugging Face's own
forward is run. Linear maps are called as modules, so that adapters take part. In the last block
only those tokens go past the keys and values that are asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlakit.core.fused import Packing, attend_packed, rms_norm, rotate, swiglu
from nlakit.models.families import blocks_of, family_of

SILU = ("silu", "swish")


def fits(backbone: Any, longest: int) -> bool:
    """Whether `run_packed` gives what the backbone's own forward would.

    Args:
        longest: tokens of the longest sequence, its beginning included.
    """
    config = backbone.config
    window = getattr(config, "sliding_window", None)
    drops = backbone.training and getattr(config, "attention_dropout", 0.0) > 0
    return (
        family_of(config.model_type).llama_shape
        and config.hidden_act in SILU
        and is_plain(backbone)
        and not drops
        and (window is None or longest <= window)
    )


def is_plain(module: Any) -> bool:
    """Whether a module is what its weights say: on a CPU in float32, with no hook in it."""
    weights = next(module.parameters())
    on_cpu = weights.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    return on_cpu and weights.dtype == torch.float32 and not hooked


def run_packed(
    backbone: Any, embedded_SD: Float[Tensor, "S D"], packing: Packing
) -> Float[Tensor, "Q D"]:
    """The residuals of the tokens asked for, after the final norm where the backbone has one."""
    family = family_of(backbone.config.model_type)
    rotary = getattr(backbone, family.position_embedding)
    cos_1Sd, sin_1Sd = rotary(embedded_SD, packing.places()[None])
    turn = Turn(cos_1Sd[0], sin_1Sd[0])
    *blocks, last = blocks_of(backbone)
    hidden_SD = embedded_SD
    for block in blocks:
        hidden_SD = _run(block, hidden_SD, turn, packing.whole, None)
    hidden_QD = _run(last, hidden_SD, turn, packing, packing.asked())
    return _normed(getattr(backbone, family.final_norm), hidden_QD)


class Turn(NamedTuple):
    """The angles of each token's place, S x d each."""

    cos_Sd: Tensor
    sin_Sd: Tensor


def _run(block: Any, x_SD: Tensor, turn: Turn, packing: Packing, asked_Q: Tensor | None) -> Tensor:
    """One block, for all tokens or for those that are asked for."""
    attention, normed_SD = block.self_attn, _normed(block.input_layernorm, x_SD)
    heads = (-1, attention.head_dim)
    k_SKd = rotate(attention.k_proj(normed_SD).unflatten(-1, heads), *turn)
    v_SKd = attention.v_proj(normed_SD).unflatten(-1, heads)
    if asked_Q is not None:
        x_SD, normed_SD = x_SD[asked_Q], normed_SD[asked_Q]
        turn = Turn(*(angles[asked_Q] for angles in turn))
    q_QHd = rotate(attention.q_proj(normed_SD).unflatten(-1, heads), *turn)
    x_QD = x_SD + attention.o_proj(attend_packed(q_QHd, k_SKd, v_SKd, packing))
    normed_QD, mlp = _normed(block.post_attention_layernorm, x_QD), block.mlp
    return x_QD + mlp.down_proj(swiglu(mlp.gate_proj(normed_QD), mlp.up_proj(normed_QD)))


def _normed(norm: Any, x_SD: Tensor) -> Tensor:
    """The norm's output; a backbone that was cut has the identity for its last."""
    if isinstance(norm, nn.Identity):
        return x_SD
    return rms_norm(x_SD, norm.weight, norm.variance_epsilon)
