"""Formats of sparse autoencoders, one file each. Nothing is unpickled.

A format has `recognizes(directory)` and `read(directory, mean_norm)`, and `write` where others can
read what we make.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from nlakit.config import suggestion
from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder

from . import dictionary_learning, gemma_scope, llama_scope, saelens, sparsify

FORMATS = {
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "llama_scope": llama_scope,
}
WRITERS: dict[str, Callable[[SparseAutoencoder, Path], None]] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
}


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    mean_norm: float | None = None,
) -> SparseAutoencoder:
    """Read an autoencoder of any supported format, which its files tell.

    Args:
        path: its directory, or its file of weights.
        dtype: of the weights in memory.
        mean_norm: mean norm of activations at its site, which a few files need.

    Raises:
        InputError: nothing is there, no format fits, or a mean norm is needed.
        CheckpointError: a file is missing or corrupt, or holds what is not run here.
    """
    directory = Path(path)
    if directory.is_file():
        directory = directory.parent
    name = format_of(directory)
    return FORMATS[name].read(directory, mean_norm).to(device, dtype)


def format_of(directory: Path) -> str:
    """The format of a directory. Raises `InputError` where there is none."""
    if not directory.is_dir():
        raise InputError(f"Asked for the autoencoder {str(directory)!r}; nothing is there.")
    found = [name for name, each in FORMATS.items() if each.recognizes(directory)]
    if not found:
        files = ", ".join(sorted(p.name for p in directory.iterdir())[:8]) or "nothing"
        raise InputError(
            f"{directory} holds no sparse autoencoder of a known format: found {files}. Known: "
            f"{', '.join(FORMATS)}."
        )
    return found[0]


def write(sae: SparseAutoencoder, directory: Path, format: str) -> Path:
    """Write an autoencoder for others; returns the directory. See `SparseAutoencoder.save`."""
    if format not in WRITERS:
        raise InputError(f"There is no writer of {format!r}.{suggestion(format, WRITERS)}")
    WRITERS[format](sae, directory)
    return directory
