"""What differs between model families, as a table of facts, and the parts of a model by name.

To add a family, add its row to `FAMILIES`, then its tiny config to `tests/parity/test_families.py`,
which compares all that nlakit does with it against Hugging Face's own forward.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from nlakit.errors import CheckpointError

PLAIN_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For tokenizers of models that were not trained on conversations and so bring no template."""


@dataclass(frozen=True)
class Family:
    """Facts about one Hugging Face `model_type`.

    Attributes:
        model_type: the word in `config.json`.
        backbone: where the model without its language head is.
        blocks, final_norm, embedding: attributes of the backbone.
        head: the language head, an attribute of the whole model.
        positions: "rotary": keys and queries are turned; "learned": a vector per place is added to
            the embeddings inside the backbone, the injected one included.
        position_embedding: attribute of the backbone that makes those.
        embedding_scale: "sqrt_d_model" where the embedding module multiplies what it looks up by
            √D. An injected vector takes the place of its output, so it is not scaled.
        chat_template: used where the tokenizer has none; None: then there is no conversation.
        renamed: prefixes of weight names on disk, and what they are called in memory.
        ignored: parts of names of stored tensors that are not weights of the language model.
        masks_by_layer_type: whether the backbone takes one attention mask per `config.layer_types`.
        llama_shape: whether the blocks are pre-norm attention with rotary positions and a gated
            MLP, as `engines.decode` runs them; other blocks are run by Hugging Face's modules.
    """

    model_type: str
    backbone: str = "model"
    blocks: str = "layers"
    final_norm: str = "norm"
    embedding: str = "embed_tokens"
    head: str = "lm_head"
    positions: Literal["rotary", "learned"] = "rotary"
    position_embedding: str = "rotary_emb"
    embedding_scale: Literal["sqrt_d_model"] | None = None
    chat_template: str | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    masks_by_layer_type: bool = False
    llama_shape: bool = False


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", llama_shape=True),
        Family("mistral", llama_shape=True),
        Family("qwen2", llama_shape=True, masks_by_layer_type=True),
        Family("qwen3", masks_by_layer_type=True),
        Family("phi3"),
        Family(
            "gemma3_text",
            embedding_scale="sqrt_d_model",
            masks_by_layer_type=True,
        ),
        Family(
            "gpt2",
            backbone="transformer",
            blocks="h",
            final_norm="ln_f",
            embedding="wte",
            positions="learned",
            position_embedding="wpe",
            chat_template=PLAIN_CHAT,
            # Old files hold the causal masks as tensors.
            ignored=(".attn.bias", ".attn.masked_bias"),
        ),
        Family(
            "gpt_neox",
            backbone="gpt_neox",
            final_norm="final_layer_norm",
            embedding="embed_in",
            chat_template=PLAIN_CHAT,
            renamed=(("embed_out.", "lm_head."),),
            ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
        ),
    )
}


@dataclass(frozen=True)
class Wrapper:
    """Facts about a multimodal `model_type`, of which the language model alone is loaded.

    Attributes:
        text_config: where its config holds the language model's.
        renamed, ignored: as in `Family`, for the names in its files.
    """

    text_config: str
    renamed: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]


WRAPPERS: dict[str, Wrapper] = {
    "gemma3": Wrapper(
        "text_config",
        # As its old files have them, then as its new ones do.
        renamed=(
            ("language_model.model.", "model."),
            ("language_model.lm_head.", "lm_head."),
            ("model.language_model.", "model."),
        ),
        ignored=("vision_tower.", "multi_modal_projector."),
    )
}


def family_of(model_type: str | None) -> Family:
    """The row of the table.

    Raises:
        CheckpointError: a family that is not in it; the message names the facts that a row needs.
    """
    if model_type not in FAMILIES:
        facts = ", ".join(field.name for field in fields(Family))
        known = ", ".join(sorted({*FAMILIES, *WRAPPERS}))
        raise CheckpointError(
            f"model_type {model_type!r} is not supported. Supported: {known}. "
            f"To add it, give nlakit.models.families.FAMILIES a row with its facts: {facts}; then "
            "add its tiny config to tests/parity/test_families.py, which says whether they are "
            "right."
        )
    return FAMILIES[model_type]


def backbone_of(model: nn.Module) -> Any:
    """The model without its language head."""
    return getattr(model, family_of(_model_type(model)).backbone)


def embedding_of(backbone: nn.Module) -> Any:
    """The input embedding, a module that maps ids to vectors as the family does."""
    return getattr(backbone, family_of(_model_type(backbone)).embedding)


def blocks_of(backbone: nn.Module) -> Any:
    """The decoder blocks, in order; each returns the residual stream."""
    return getattr(backbone, family_of(_model_type(backbone)).blocks)


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
