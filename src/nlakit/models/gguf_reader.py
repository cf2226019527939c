"""Reads GGUF, the file format of llama.cpp: metadata, and tensors by name.

The `gguf` package dequantizes. Its reader is not used: it takes 17 seconds for the metadata of a
vocabulary of 262,144 tokens, and a file can lead it past its own end without end.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from torch import Tensor

from nlakit.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_FIELDS, MAX_TENSORS, MAX_ITEMS, MAX_TEXT, MAX_DIMENSIONS = 4096, 65_536, 4_000_000, 1 << 24, 4
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Formats of the scalars by their number in a file."""
UNQUANTIZED = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class StoredTensor(NamedTuple):
    """Where and how a tensor lies in a file.

    Attributes:
        shape: as torch has it, the last dimension contiguous.
        offset: of its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int

    @property
    def num_bytes(self) -> int:
        """What it takes on disk."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape, dtype=object)) // block * size


class GgufFile:
    """An opened file; its tensors stay on the disk until they are asked for.

    Attributes:
        path: where it lies.
        facts: its metadata by name, arrays as lists.
        tensors: by name.

    Raises:
        CheckpointError: it is no GGUF file, cut short, or of impossible sizes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is not a file. Check the path.")
        with self.path.open("rb") as file:
            header = _Header(file, self.path)
            self.facts, self.tensors = header.read()

    def read(self, name: str) -> Tensor:
        """A tensor in its own type, or in float32 where it is quantized.

        Raises:
            CheckpointError: there is none of that name, or it is of a kind that nobody knows.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no tensor {name}. Is the download complete?")
        found = self.tensors[name]
        raw = np.fromfile(self.path, np.uint8, found.num_bytes, offset=found.offset)
        if found.kind in UNQUANTIZED:
            return torch.from_numpy(raw).view(UNQUANTIZED[found.kind]).reshape(found.shape)
        try:
            whole = dequantize(raw.reshape(*found.shape[:-1], -1), found.kind)
        except (NotImplementedError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: {name} is stored as {found.kind.name}, which cannot be dequantized "
                f"here ({error})."
            ) from error
        return torch.from_numpy(whole).reshape(found.shape)


class _Header:
    """Reads what stands before the tensors, never more than the file holds."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = path.stat().st_size

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        """Metadata and tensors by name."""
        if self._bytes(4) != MAGIC or self._number("I") not in VERSIONS:
            raise CheckpointError(f"{self._path} is no GGUF file of version 2 or 3, little-endian.")
        num_tensors = self._count("Q", MAX_TENSORS)
        facts = {}
        for _ in range(self._count("Q", MAX_FIELDS)):
            name = self._text()
            facts[name] = self._value(self._number("I"))
        infos = {self._text(): self._info() for _ in range(num_tensors)}
        if len(infos) < num_tensors:
            raise self._broken("two of its tensors have one name")
        return facts, self._placed(infos, facts.get("general.alignment", DEFAULT_ALIGNMENT))

    def _placed(
        self, infos: dict[str, tuple[tuple[int, ...], int, int]], alignment: Any
    ) -> dict[str, StoredTensor]:
        if not isinstance(alignment, int) or alignment < 1:
            raise self._broken(f"general.alignment is {alignment!r}")
        start = -(-self._file.tell() // alignment) * alignment
        placed = {name: self._stored(name, each, start) for name, each in infos.items()}
        for name, each in placed.items():
            if each.offset + each.num_bytes > self._size:
                raise self._broken(f"it ends before the tensor {name}")
        return placed

    def _stored(
        self, name: str, info: tuple[tuple[int, ...], int, int], start: int
    ) -> StoredTensor:
        shape, kind, offset = info
        try:
            known = GGMLQuantizationType(kind)
            block = GGML_QUANT_SIZES[known][0]
        except (KeyError, ValueError) as error:
            raise self._broken(f"the tensor {name} is of the unknown type {kind}") from error
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise self._broken(f"the tensor {name} has the shape {shape}")
        return StoredTensor(shape, known, start + offset)

    def _info(self) -> tuple[tuple[int, ...], int, int]:
        num_dimensions = self._count("I", MAX_DIMENSIONS)
        shape = tuple(self._number("Q") for _ in range(num_dimensions))
        return shape[::-1], self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY:
            raise self._broken(f"a value is of type {kind}")
        inner, count = self._number("I"), self._count("Q", MAX_ITEMS)
        if inner == STRING:
            return [self._text() for _ in range(count)]
        if inner not in SCALARS:
            raise self._broken(f"an array holds values of type {inner}")
        form = f"<{count}{SCALARS[inner]}"
        return list(struct.unpack(form, self._bytes(struct.calcsize(form))))

    def _text(self) -> str:
        raw = self._bytes(self._count("Q", MAX_TEXT))
        return raw.decode("utf-8", "replace")

    def _count(self, form: str, most: int) -> int:
        found = self._number(form)
        if found > most:
            raise self._broken(f"it counts {found:,} where at most {most:,} are read")
        return found

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))[0]

    def _bytes(self, count: int) -> bytes:
        # A file of a few bytes must not make us ask for gigabytes of memory.
        if self._file.tell() + count > self._size:
            raise self._broken("it ends inside its metadata")
        return self._file.read(count)

    def _broken(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is no sound GGUF file: {why}. Copy or download it again."
        )
