"""Safetensors files, written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a file under a temporary name, sync it and give it its own.

    Raises:
        OSError: it cannot be written; ENOSPC where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _save(temporary, tensors, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        # The library tells the system's error in words alone.
        is_full = f"os error {errno.ENOSPC}" in str(error)
        raise OSError(errno.ENOSPC if is_full else errno.EIO, str(error), str(path)) from error
