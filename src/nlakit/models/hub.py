"""Model directories by path, by their name on the Hugging Face hub, or out of a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from nlakit.errors import CheckpointError

GGUF = ".gguf"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Weights in safetensors and what describes them; nothing that would have to be unpickled or run.
FILES = ("*.safetensors", "*.json", "*.yaml", "*.jinja", "*.model", "merges.txt", "README.md")


def locate(name: str | Path, cache_dir: str | Path | None = None) -> Path:
    """The local directory of a model, downloaded first where `name` is `owner/name` on the hub, and
    converted first where it is a GGUF file.

    A directory of that name comes first. `HF_HUB_OFFLINE=1` keeps to what was downloaded before.

    Raises:
        CheckpointError: neither a directory nor on the hub, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix.lower() == GGUF:
        # Converting needs half of this room, which needs this module.
        from nlakit.models.convert import converted

        return converted(path)
    if not REPOSITORY.fullmatch(str(name)):
        raise CheckpointError(
            f"{name} is neither a directory nor a name on the hub, such as owner/name. "
            "Check the path."
        )
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(FILES), cache_dir=cache_dir))
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no directory here and not on the hub. Check its spelling; a private or "
            "gated model needs `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{name} is no directory here and cannot be downloaded ({error}). Check the path, or "
            "the connection."
        ) from error
