"""A target that somebody has in memory already, as `nlakit.load(target=model, tokenizer=...)`.

The weights are read where they lie and left as they are: nothing is copied, moved or trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nlakit.card import read_card
from nlakit.core.site import Site
from nlakit.errors import InputError
from nlakit.models.families import family_of
from nlakit.models.fingerprint import target_fingerprint
from nlakit.models.target import Target
from nlakit.registry import bundled_names, bundled_path


def is_model(target: object) -> bool:
    """Whether `target` is a model, and not the name of one."""
    return target is not None and not isinstance(target, str | Path)


def check_model(model: Any, tokenizer: Any) -> None:
    """Refuse what is no Hugging Face model with its tokenizer, or is being trained.

    Raises:
        InputError: with what to give instead.
        CheckpointError: its family is not known.
    """
    # Imported here: it loads what only training needs, and so would every reading.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"target is a {type(model).__name__}, expected a directory, a name, or a model of "
            "Hugging Face transformers. Of a PEFT model give model.merge_and_unload(), of a "
            "TransformerLens or nnsight model the one that it was made from."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer is {type(tokenizer).__name__}, expected the model's own: "
            "AutoTokenizer.from_pretrained(...)."
        )
    # A wrapper of text and image models has its text model's facts elsewhere.
    family_of(model.config.model_type)
    if model.training:
        raise InputError("The target is in training mode, where dropout is on. Call model.eval().")


def wrap(model: Any, tokenizer: Any, layer: int, d_model: int) -> Target:
    """The model as a target read after block `layer`. Raises `InputError` for another width."""
    width = model.config.hidden_size
    if width != d_model:
        raise InputError(
            f"The pair reads vectors of {d_model} numbers; activations of {_called(model)} have "
            f"{width}. Give the model that it was trained on."
        )
    return Target(model, tokenizer, Site(layer))


def bundled_for(model: Any, tokenizer: Any) -> str:
    """The NLA of the package that was trained on these weights.

    Raises:
        InputError: there is none.
    """
    for name in bundled_names():
        card = read_card(bundled_path(name))
        is_deep_enough = card.layer < model.config.num_hidden_layers
        if model.config.hidden_size != card.d_model or not is_deep_enough:
            continue
        found = target_fingerprint(Target(model, tokenizer, Site(card.layer)))
        if found is not None and found == card.target_fingerprint:
            return name
    known = ", ".join(bundled_names())
    raise InputError(
        f"No NLA of the package ({known}) was trained on {_called(model)}. Give the directory of "
        "one that was, as the first argument, or a released pair as av and ar."
    )


def own_directory(model: Any) -> Path | None:
    """Where the model was loaded from, where that is a directory here."""
    path = Path(str(getattr(model, "name_or_path", "") or ""))
    return path if path.name and (path / "config.json").is_file() else None


def _called(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or type(model).__name__)
