"""The training forward: packed sequences, without padding, after a prefix that is run once.

Blocks of the Llama shape are run by torch's operators over flat tokens, with attention from
`core.attention` and all maps of one input as one step of autograd (`core.projection`), which is
where adapters take part. Every other block, a quantized or sharded one, and one with a hook, is
run by Hugging Face's own module over the pack as one long row under an additive mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nlakit.core.attention import Attention, attention_over, to_device
from nlakit.core.norm import rms_norm
from nlakit.core.packing import Packing
from nlakit.core.projection import project
from nlakit.models.families import blocks_of, family_of
from nlakit.models.joined import BlockMaps, joined_blocks
from nlakit.models.recompute import recomputing
from nlakit.models.sharding import in_step

SILU = ("silu", "swish")

TOKENS_UNDER_A_MASK = 4096
"""The longest pack that Hugging Face's modules are given: a mask is quadratic in it."""


class BlockEdit(NamedTuple):
    """A change of the residual stream after block `layer`: S x D to S x D."""

    layer: int
    change: Callable[[Tensor], Tensor]


def runs_blocks(backbone: Any, longest: int, edit: BlockEdit | None = None) -> bool:
    """Whether the backbone's blocks are run here and not by Hugging Face's modules.

    Args:
        longest: tokens of the longest sequence, the prefix included.
    """
    config = backbone.config
    window = getattr(config, "sliding_window", None)
    drops = backbone.training and getattr(config, "attention_dropout", 0.0) > 0
    return (
        family_of(config.model_type).llama_shape
        and config.hidden_act in SILU
        and not drops
        and (window is None or longest <= window)
        # Of the last block's output there are only the tokens wanted.
        and (edit is None or edit.layer < config.num_hidden_layers - 1)
        and _is_plain(backbone)
    )


def _is_plain(backbone: Any) -> bool:
    """Whether its modules are what their weights say: of one precision, whole, with no hook."""
    blocks = blocks_of(backbone)
    weights = dict(blocks.named_parameters())
    base = {each.dtype for name, each in weights.items() if ".lora_" not in name}
    return (
        len(base) == 1
        and not _autocasts(next(iter(weights.values())).device.type)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in blocks.modules())
        and joined_blocks(backbone) is not None
    )


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def run_packed(
    backbone: Any,
    embedded_SD: Float[Tensor, "S D"],
    packing: Packing,
    *,
    edit: BlockEdit | None = None,
    gradient_checkpointing: bool = False,
) -> Float[Tensor, "Q D"]:
    """The residuals of the tokens wanted, after the final norm where the backbone has one."""
    longest = packing.shared + max(packing.lengths)
    run = _run_blocks if runs_blocks(backbone, longest, edit) else _run_modules
    remade = gradient_checkpointing and torch.is_grad_enabled()
    return run(backbone, embedded_SD, packing, edit, remade)


def packs_of(
    backbone: Any, lengths: Sequence[int], shared: int, edit: BlockEdit | None = None
) -> Iterator[range]:
    """Which sequences are run together: all, or as many as Hugging Face's modules are given.

    Of a sharded backbone every process gets as many packs; spare ones, behind its own, are of the
    first sequence.
    """
    if runs_blocks(backbone, shared + max(lengths), edit):
        yield range(len(lengths))
        return
    packs = _packs_under_a_mask(lengths, shared)
    yield from (pack for pack, _ in in_step(backbone, packs, range(1)))


def _packs_under_a_mask(lengths: Sequence[int], shared: int) -> Iterator[range]:
    start, tokens = 0, shared
    for row, length in enumerate(lengths):
        if row > start and tokens + length > TOKENS_UNDER_A_MASK:
            yield range(start, row)
            start, tokens = row, shared
        tokens += length
    yield range(start, len(lengths))


# -- Hugging Face's modules ------------------------------------------------------------------------
def _run_modules(
    backbone: Any, embedded_SD: Tensor, packing: Packing, edit: BlockEdit | None, remade: bool
) -> Tensor:
    device = embedded_SD.device
    with recomputing(backbone, remade), _edited(backbone, edit):
        output = backbone(
            inputs_embeds=embedded_SD[None],
            attention_mask=_masks(backbone, packing, embedded_SD.dtype, device),
            position_ids=to_device(packing.positions()[None], device),
            use_cache=False,
        )
    return output.last_hidden_state[0].index_select(0, to_device(packing.queries(), device))


@contextmanager
def _edited(backbone: Any, edit: BlockEdit | None) -> Iterator[None]:
    """While it is open, a block's output, 1 x S x D, is changed."""
    if edit is None:
        yield
        return
    hook = blocks_of(backbone)[edit.layer].register_forward_hook(
        lambda _module, _inputs, residual_1SD: edit.change(residual_1SD[0])[None]
    )
    try:
        yield
    finally:
        hook.remove()


def _masks(
    backbone: Any, packing: Packing, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """Additive masks 1 x 1 x S x S: one, or one per type of layer, as the family takes them."""
    window: int | None = getattr(backbone.config, "sliding_window", None)

    def mask(seen: int | None) -> Tensor:
        return to_device(packing.mask(seen, dtype)[None, None], device)

    if not family_of(backbone.config.model_type).masks_by_layer_type:
        return mask(window)
    masks = {"full_attention": mask(None)}
    if window is not None:
        masks["sliding_attention"] = mask(window)
    return masks


# -- blocks of the Llama shape ---------------------------------------------------------------------
class _Rotation(NamedTuple):
    """Cosines and signed sines of each token's position, S x heads x d: values, which come after
    queries and keys, are not rotated."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, rotary: Any, embedded_SD: Tensor, positions_S: Tensor, heads: _Heads) -> _Rotation:
        """As the family's module makes them: both halves of a head turn by the same angles."""
        cos, sin = (x[0][:, None] for x in rotary(embedded_SD, positions_S[None]))
        half, rotated = sin.shape[-1] // 2, heads.queries + heads.keys
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        size = (-1, heads.keys, -1)
        return cls(
            torch.cat([cos.expand(-1, rotated, -1), torch.ones_like(cos).expand(size)], dim=1),
            torch.cat([signed.expand(-1, rotated, -1), torch.zeros_like(sin).expand(size)], dim=1),
        )

    def __call__(self, heads_SHd: Tensor) -> Tensor:
        """Queries, keys and values, rotated."""
        swapped = heads_SHd.roll(heads_SHd.shape[-1] // 2, dims=-1)
        return torch.addcmul(heads_SHd * self.cos, swapped, self.sin)

    def part(self, heads: slice, index: Tensor | None = None) -> _Rotation:
        """Of some heads, and of some tokens."""
        parts = (x[:, heads] if index is None else x[index, heads] for x in self)
        return _Rotation(*parts)


class _Heads(NamedTuple):
    """How many heads a block has, and how wide one is."""

    queries: int
    keys: int
    width: int

    @classmethod
    def of(cls, block: Any, maps: BlockMaps) -> _Heads:
        """Of a block of the Llama shape."""
        width = block.self_attn.head_dim
        return cls(maps.q.widths[0] // width, maps.kv.widths[0] // width, width)


class _Last(NamedTuple):
    """What the last block needs to run only the tokens wanted past their keys and values."""

    queries_Q: Tensor
    attention: Attention
    query_rotation: _Rotation
    key_rotation: _Rotation


def _run_blocks(
    backbone: Any, embedded_SD: Tensor, packing: Packing, edit: BlockEdit | None, remade: bool
) -> Tensor:
    family, device = family_of(backbone.config.model_type), embedded_SD.device
    joined = joined_blocks(backbone)
    assert joined is not None, "only a backbone of plain matrices is run here"
    *blocks, last = zip(blocks_of(backbone), joined, strict=True)
    heads = _Heads.of(*last)
    rotary = getattr(backbone, family.position_embedding)
    rotation = _Rotation.of(rotary, embedded_SD, to_device(packing.positions(), device), heads)
    over = partial(attention_over, dtype=embedded_SD.dtype, device=device, head_dim=heads.width)
    attention, hidden_SD = over(packing.whole), embedded_SD
    for index, block in enumerate(blocks):
        hidden_SD = _checkpointed(_block, remade, *block, hidden_SD, rotation, attention)
        if edit is not None and edit.layer == index:
            hidden_SD = edit.change(hidden_SD)
    queries_Q = to_device(packing.queries(), device)
    ending = _Last(
        queries_Q,
        over(packing),
        rotation.part(slice(heads.queries), queries_Q),
        rotation.part(slice(heads.queries, None)),
    )
    hidden_QD = _checkpointed(_last_block, remade, *last, hidden_SD, ending)
    return _normed(getattr(backbone, family.final_norm), hidden_QD)


def _checkpointed(run: Any, active: bool, *arguments: Any) -> Tensor:
    if not active:
        return run(*arguments)
    # No random number is used in a block.
    return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def _block(
    block: Any, maps: BlockMaps, x_SD: Tensor, rotation: _Rotation, attention: Attention
) -> Tensor:
    heads = _Heads.of(block, maps)
    qkv = project(_normed(block.input_layernorm, x_SD), maps.qkv).unflatten(-1, (-1, heads.width))
    q_SHd, kv_SCd = rotation(qkv).split([heads.queries, 2 * heads.keys], dim=1)
    return _rest(block, maps, x_SD, attention(q_SHd, kv_SCd))


def _last_block(block: Any, maps: BlockMaps, x_SD: Tensor, last: _Last) -> Tensor:
    """As `_block`; of most tokens the keys and values are all that is needed."""
    by_head = (-1, block.self_attn.head_dim)
    normed_SD = _normed(block.input_layernorm, x_SD)
    kv_SCd = last.key_rotation(project(normed_SD, maps.kv).unflatten(-1, by_head))
    x_QD, normed_QD = (x.index_select(0, last.queries_Q) for x in (x_SD, normed_SD))
    q_QHd = last.query_rotation(project(normed_QD, maps.q).unflatten(-1, by_head))
    return _rest(block, maps, x_QD, last.attention(q_QHd, kv_SCd))


def _rest(block: Any, maps: BlockMaps, x_SD: Tensor, mixed_SD: Tensor) -> Tensor:
    """The residual after attention's output and the gated MLP."""
    x_SD = project(mixed_SD, maps.out, x_SD)
    normed_SD = _normed(block.post_attention_layernorm, x_SD)
    gate_SM, up_SM = project(normed_SD, maps.gate_up).chunk(2, dim=-1)
    return project(F.silu(gate_SM) * up_SM, maps.down, x_SD)


def _normed(norm: Any, x_SD: Tensor) -> Tensor:
    """The norm's output; a truncated backbone has the identity for its last."""
    if isinstance(norm, nn.Identity):
        return x_SD
    return rms_norm(x_SD, norm.weight, norm.variance_epsilon)
