"""`nla.json`: what an NLA is, and what its scores are measured against.

On disk an NLA is a directory with `target/`, `av/`, `ar/`, `nla.json` and `mean.safetensors`. Where
`av/` and `ar/` are LoRA adapters, the target may be somewhere else: the contract names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, Field, JsonValue

from nlakit.config import FrozenModel, describe_errors, validate_json, write_text_atomic
from nlakit.errors import CheckpointError
from nlakit.files import read_small_text
from nlakit.printable import is_one_line

CARD_NAME, MEAN_NAME = "nla.json", "mean.safetensors"
PARTS = ("target", "av", "ar")
ADAPTER_CONFIG = "adapter_config.json"

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _one_line(text: str) -> str:
    if not is_one_line(text):
        raise ValueError("must be one line without control characters")
    return text


Name = Annotated[str, AfterValidator(_one_line)]


class ReadSpan(FrozenModel):
    """Where in their documents the training activations lay."""

    minimum_position: int = Field(ge=0)
    """No token before this one was read."""
    max_tokens: int = Field(gt=0)
    """Documents were cut here."""


class NlaCard(FrozenModel):
    """What `nla.json` holds."""

    format_version: Literal[1] = 1
    name: Name = Field(min_length=1)
    description: Name = ""
    domain: Name = ""
    """The texts that it was trained on, as a phrase that completes "trained on …"."""
    layer: int = Field(ge=0)
    """K: the activation is the output of decoder block K of the target."""
    d_model: int = Field(gt=0)
    variance: Finite = Field(gt=0)
    """Mean over the training rows of `‖h - mean‖² / d_model`, each h brought to norm √d_model."""
    baseline: Literal["training_mean", "none"] = "training_mean"
    """none: no mean of training vectors is known. The variance is then 2, as between unrelated
    vectors, so that a fidelity is the bare cosine, and is given no grade."""
    num_training_rows: int = Field(ge=0)
    """Rows behind the mean and the variance."""
    floors: dict[Name, Finite] = {}
    """FVE of things that know nothing: mean, shuffled, empty, generic, zero_vector."""
    span: ReadSpan | None = None
    """None: not written down. `nlakit eval` on a corpus keeps to it unless it is told otherwise."""
    fve: Finite | None = None
    """FVE on held-out documents; None before it was measured."""
    claims: str = "none"
    """The claim system of its explanations (`claims.registry`): "storyworld", "text" (checked
    against the text and the target's own probabilities), "spans" (found, never checked), "none"."""
    target_fingerprint: str | None = None
    """Of the target's weights up to the site (`models.fingerprint`); None: not written down."""
    provenance: dict[str, JsonValue] = {}


def check_complete(directory: Path) -> None:
    """Raise `CheckpointError` unless every part of an NLA is in `directory`."""
    wanted = [*(f"{part}/config.json" for part in PARTS), CARD_NAME, MEAN_NAME]
    missing = [name for name in wanted if not (directory / name).is_file()]
    adapters = [part for part in ("av", "ar") if (directory / part / ADAPTER_CONFIG).is_file()]
    # An adapter needs no config of a model; of adapters alone the base is somewhere else.
    spared = {f"{part}/config.json" for part in adapters}
    spared |= {"target/config.json"} if len(adapters) == 2 else set()
    missing = [name for name in missing if name not in spared]
    if missing == [MEAN_NAME] and read_card(directory).baseline == "none":
        return
    if missing:
        raise CheckpointError(
            f"{directory} is not a whole NLA; missing: {', '.join(missing)}. "
            "Copy it again, or give the directory that `nlakit train` wrote."
        )


def read_card(directory: Path) -> NlaCard:
    """Read the card of the NLA in `directory`. Raises `CheckpointError` naming the field."""
    path = directory / CARD_NAME
    text = read_small_text(path, CheckpointError)
    try:
        return validate_json(NlaCard, text)
    except pydantic.ValidationError as error:
        raise CheckpointError(describe_errors(NlaCard, error, str(path))) from error


def write_card(directory: Path, card: NlaCard) -> None:
    """Write the card into `directory`, atomically."""
    write_text_atomic(directory / CARD_NAME, card.model_dump_json(indent=2) + "\n")
