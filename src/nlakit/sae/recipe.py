"""Recipes of sparse autoencoders: `kind = "sae"`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nlakit.config import FrozenModel

from .architectures import SaeSettings

KIND = "sae"


class SaeTarget(FrozenModel):
    """Whose activations."""

    model: str
    """bundled (the target of the bundled NLA), a model directory, or a name on the hub."""
    layer: int = Field(ge=0)
    """The block whose output is read."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision that the target runs in; auto: float32 on a CPU, else its checkpoint's own."""


class SaeActivations(FrozenModel):
    """Activations to train from: shards that are there, or texts to read."""

    corpus: str | None = None
    """storyworld, or a corpus as `nlakit extract` takes it."""
    documents: int = Field(default=2000, ge=1)
    max_tokens: int = Field(default=256, ge=2)
    first_position: int = Field(default=1, ge=0)
    """Of a corpus, the first token that is read."""
    shards: str | None = None
    """Directory of shards, as `nlakit extract` or an NLA's training has made it."""

    @model_validator(mode="after")
    def _one(self) -> SaeActivations:
        if self.corpus is None and self.shards is None:
            raise ValueError("name a corpus, or shards that are there")
        return self


class SaeRecipe(FrozenModel):
    """Autoencoders of one target, all trained from the same activations.

    What stands under `training` holds for each of them unless its own table says otherwise.
    """

    kind: Literal["sae"] = "sae"
    name: str
    seed: int = Field(default=0, ge=0)
    target: SaeTarget
    activations: SaeActivations
    sae: dict[str, SaeSettings] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("sae"), dict):
            return raw
        shared = raw.get("training") or {}
        tables = {name: {**shared, **table} for name, table in raw["sae"].items()}
        return {key: value for key, value in raw.items() if key != "training"} | {"sae": tables}
