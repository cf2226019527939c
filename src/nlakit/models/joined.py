"""Matrices that read the same input, one below another in memory.

A block's query, key and value matrices are then one product, and so are its gate and up matrices,
in training and in decoding, without a copy of the weights: the parameters stay what they are and
only move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nlakit.core.projection import Adapters, Maps, side_by_side
from nlakit.models.families import blocks_of
from nlakit.models.lora import IN_MEMORY


class BlockMaps(NamedTuple):
    """The linear maps of one block of the Llama shape.

    Attributes:
        qkv: queries, keys and values.
        q, kv: the same apart.
    """

    qkv: Maps
    q: Maps
    kv: Maps
    out: Maps
    gate_up: Maps
    down: Maps


class _Known(NamedTuple):
    """What was made of a backbone, where its weights were, and PEFT's layers in it."""

    addresses: list[int]
    blocks: list[BlockMaps]
    adapted: list[Any]


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def joined_blocks(backbone: Any) -> list[BlockMaps] | None:
    """The maps of each block; None where one of them is more than its weights say: quantized,
    sharded, or with an adapter that is not LoRA's plain one.

    The first call moves weights; later ones find them, unless they have moved since.
    """
    weights = [each for block in blocks_of(backbone) for each in block.parameters()]
    if not all(type(each) is nn.Parameter for each in weights):
        return None
    known = _KNOWN.get(backbone)
    if known is not None and known.addresses == [each.data_ptr() for each in weights]:
        return known.blocks if all(map(_is_plain_adapter, known.adapted)) else None
    found = [_block_maps(block) for block in blocks_of(backbone)]
    blocks = [each for each in found if each is not None]
    if len(blocks) < len(found):
        return None
    adapted = [each for each in blocks_of(backbone).modules() if hasattr(each, "base_layer")]
    _KNOWN[backbone] = _Known([each.data_ptr() for each in weights], blocks, adapted)
    return blocks


def _block_maps(block: Any) -> BlockMaps | None:
    attn, mlp = block.self_attn, block.mlp
    kv = [attn.k_proj, attn.v_proj]
    groups = [
        [attn.q_proj, *kv], [attn.q_proj], kv, [attn.o_proj],
        [mlp.gate_proj, mlp.up_proj], [mlp.down_proj],
    ]  # fmt: skip
    found = [join(group) for group in groups]
    made = [each for each in found if each is not None]
    return BlockMaps(*made) if len(made) == len(found) else None


class _Linear(NamedTuple):
    """One linear module: its own tensors, and those of its adapter."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None = None
    up: Tensor | None = None
    scale: float = 1.0


def join(modules: Sequence[nn.Module]) -> Maps | None:
    """Linear modules of one input as `core.projection` takes them, moved together where they are
    not yet; None where one is of another kind."""
    read = [_read(each) for each in modules]
    linears = [each for each in read if each is not None]
    adapted = [index for index, each in enumerate(linears) if each.down is not None]
    biases = [each.bias for each in linears if each.bias is not None]
    scales = {linears[index].scale for index in adapted}
    if len(linears) < len(read) or len(biases) not in (0, len(linears)) or len(scales) > 1:
        return None
    weights = [each.weight for each in linears]
    factors = [(linears[i].down, linears[i].up) for i in adapted]
    downs = [down for down, _ in factors if down is not None]
    ups = [up for _, up in factors if up is not None]
    adapters = None
    if adapted:
        views = [up.detach() for up in ups]
        adapters = Adapters.make(adapted, together(downs), views, scales.pop())
    weight = together(weights)
    return Maps(
        weight,
        weight.t(),
        tuple(len(each) for each in weights),
        together(biases) if biases else None,
        adapters,
        (*weights, *biases, *downs, *ups),
    )


@torch.no_grad()
def together(parameters: Sequence[Tensor]) -> Tensor:
    """One view of parameters, joined at their first dimension; they are moved if need be."""
    found = side_by_side(parameters)
    if found is not None:
        return found
    # Not in inference mode, whatever mode the caller is in: such tensors could never be trained.
    with torch.inference_mode(False):
        whole = torch.cat([each.detach() for each in parameters])
        for each, part in zip(parameters, whole.split([len(p) for p in parameters]), strict=True):
            each.data = part
    return whole


def _read(module: Any) -> _Linear | None:
    """A linear module with at most one plain adapter of PEFT's; None for anything else."""
    if type(module) is nn.Linear:
        return _Linear(module.weight, module.bias)
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or not _is_plain_adapter(module):
        return None
    down, up = module.lora_A[IN_MEMORY].weight, module.lora_B[IN_MEMORY].weight
    return _Linear(base.weight, base.bias, down, up, module.scaling[IN_MEMORY])


def _is_plain_adapter(module: Any) -> bool:
    """Whether a PEFT layer adds `scale * up(down(x))` of one adapter and nothing else."""
    return (
        module.active_adapters == [IN_MEMORY]
        and not module.disable_adapters
        and not module.merged
        and type(module.lora_A[IN_MEMORY]) is nn.Linear
        and module.lora_B[IN_MEMORY].bias is None
        and isinstance(module.lora_dropout[IN_MEMORY], nn.Identity)
        and not module.lora_variant
    )
