"""What differs between model families, as a table of facts, and the parts of a model by name."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from nlakit.errors import CheckpointError


@dataclass(frozen=True)
class Family:
    """Facts about one Hugging Face `model_type`.

    Attributes:
        model_type: the word in `config.json`.
        backbone: where the model without its language head is.
        blocks, final_norm, embedding, rotary: attributes of the backbone.
        head: the language head, an attribute of the whole model.
        embedding_scale: "sqrt_d_model" where looked-up embeddings are multiplied by √D.
        adds_bos: whether the family's models were trained with a BOS before each text. It goes
            before a text only if the tokenizer has one.
        llama_shape: whether the blocks are pre-norm attention with rotary positions and a gated
            MLP, as `engines.decode` runs them.
    """

    model_type: str
    backbone: str = "model"
    blocks: str = "layers"
    final_norm: str = "norm"
    embedding: str = "embed_tokens"
    rotary: str = "rotary_emb"
    head: str = "lm_head"
    embedding_scale: str | None = None
    adds_bos: bool = True
    llama_shape: bool = True


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama"),
        Family("mistral"),
        Family("qwen2"),
    )
}


def family_of(model_type: str | None) -> Family:
    """The row of the table. Raises `CheckpointError` for a family that is not in it."""
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"model_type {model_type!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def backbone_of(model: nn.Module) -> Any:
    """The model without its language head."""
    return getattr(model, family_of(_model_type(model)).backbone)


def embedding_of(backbone: nn.Module) -> Any:
    """The input embedding, a module that maps ids to vectors as the family does."""
    return getattr(backbone, family_of(_model_type(backbone)).embedding)


def head_of(model: nn.Module) -> Any:
    """The language head, a module that maps residuals to logits."""
    return getattr(model, family_of(_model_type(model)).head)


def truncated(backbone: nn.Module, num_blocks: int) -> Any:
    """A view of `backbone` that runs its first `num_blocks` blocks and no final norm.

    The view shares every weight, and leaves the original as it was.
    """
    family = family_of(_model_type(backbone))
    view = copy.copy(backbone)
    view.__dict__["_modules"] = dict(backbone._modules)
    view.config = cut_config(backbone.config, num_blocks)
    setattr(view, family.blocks, nn.ModuleList(list(getattr(view, family.blocks))[:num_blocks]))
    setattr(view, family.final_norm, nn.Identity())
    return view


def cut_config(config: Any, num_blocks: int) -> Any:
    """A copy of a Hugging Face config for the first `num_blocks` blocks."""
    cut = copy.deepcopy(config)
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:num_blocks]
    cut.num_hidden_layers = num_blocks
    return cut


def _model_type(model: Any) -> str | None:
    return getattr(model.config, "model_type", None)
