"""Token ids that end what a model writes.

A checkpoint names them in its tokenizer, its `config.json` and its `generation_config.json`; many a
chat model names the end of a turn in the last one only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlakit.config import write_text_atomic
from nlakit.errors import CheckpointError
from nlakit.files import read_json_object

GENERATION_NAME = "generation_config.json"
KEY = "eos_token_id"


def endings_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All of them for a model in memory, the tokenizer's own first: the one to train on."""
    generation = getattr(model, "generation_config", None)
    declared = (tokenizer.eos_token_id, model.config.eos_token_id, getattr(generation, KEY, None))
    return distinct(*declared)


def distinct(*declared: Any) -> list[int]:
    """Ids of several declarations, each an id, a list of them or nothing."""
    return list(dict.fromkeys(found for each in declared for found in _listed(each)))


def read_endings(directory: str | Path) -> list[int]:
    """Those of a directory's generation config; none where it has no such file.

    Raises:
        CheckpointError: it cannot be read, or names something else than ids.
    """
    path = Path(directory) / GENERATION_NAME
    if not path.exists():
        return []
    found = read_json_object(path, CheckpointError).get(KEY)
    listed = _listed(found)
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in listed):
        raise CheckpointError(f"{path}: {KEY} is {found!r}, not one id or a list of ids.")
    return listed


def give_endings(model: Any, directory: str | Path) -> None:
    """Let a model in memory know those of its directory's generation config."""
    listed = read_endings(directory)
    if listed and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = listed


def save_endings(directory: Path, model: Any) -> None:
    """Write a generation config where the model's names others than its config does."""
    listed = _listed(getattr(getattr(model, "generation_config", None), KEY, None))
    if not set(listed) <= {*_listed(model.config.eos_token_id)}:
        text = json.dumps({KEY: listed}, indent=2) + "\n"
        write_text_atomic(directory / GENERATION_NAME, text)


def _listed(found: Any) -> list[Any]:
    return [] if found is None else list(found) if isinstance(found, list) else [found]
