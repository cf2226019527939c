"""What a saved autoencoder is: everything its weights do not say."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from nlakit.config import FrozenModel

Inference = Literal["standard", "topk", "jumprelu", "gated"]
"""How a saved autoencoder encodes, by SAELens's names. BatchTopK, Matryoshka and temporal ones are
trained so and saved as `jumprelu`; `trained_as` remembers."""

Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

RESIDUAL_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


class SaeConfig(FrozenModel):
    """One autoencoder: its form, its conventions, and where its activations come from."""

    architecture: Inference
    d_in: int = Field(gt=0)
    d_sae: int = Field(gt=0)
    k: int | None = Field(default=None, gt=0)
    """Active latents per row, of `topk`."""
    subtract_b_dec: bool = True
    """Whether `b_dec` is taken off the input before it is encoded."""
    normalization: Normalization = "none"
    """Done to each activation before it is encoded, and undone by `reconstruct`."""
    reshape: Literal["none", "hook_z"] = "none"
    """hook_z: each activation is an attention layer's heads side by side."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the weights on disk."""
    model: str | None = None
    """The target, as the file names it."""
    hook_name: str | None = None
    """The site, by TransformerLens's name, such as blocks.3.hook_resid_post."""
    trained_as: str | None = None
    """The architecture while it was trained, where that is another."""
    metadata: dict[str, JsonValue] = {}
    """Whatever else the file said, kept for those who write it again."""

    @model_validator(mode="after")
    def _check(self) -> SaeConfig:
        if (self.architecture == "topk") != (self.k is not None):
            raise ValueError(f"k={self.k} with architecture {self.architecture}: topk needs it")
        return self

    @property
    def layer(self) -> int | None:
        """The block whose output it reads; None where the site is not the residual stream, or is
        the embedding."""
        found = RESIDUAL_HOOK.fullmatch(self.hook_name or "")
        if found is None:
            return None
        layer = int(found[1]) - (found[2] == "pre")
        return layer if layer >= 0 else None


def residual_hook(layer: int) -> str:
    """TransformerLens's name of a block's output."""
    return f"blocks.{layer}.hook_resid_post"
