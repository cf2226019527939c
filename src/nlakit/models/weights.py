"""The tensors of a model directory: which files hold them, and under which names.

The choice of files, the names and the tie of head and embedding are those of transformers'
`from_pretrained`; where it would warn and go on, this refuses. Nothing here unpickles.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nlakit.errors import CheckpointError
from nlakit.files import read_json_object
from nlakit.models.families import WRAPPERS, Family

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
LFS_HEADER = b"version https://git-lfs.github.com/spec/"

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Stored types of weights; any other is part of a quantization."""
QUANTIZED_PARTS = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|SCB|weight_format|weight_scale(_inv)?|input_scale|absmax"
    r"|weight_packed|weight_shape|quant_map|quant_state\..*)$"
)
"""Names beside a quantized matrix: GPTQ, AWQ, bitsandbytes, fp8, compressed-tensors."""


class Stored(NamedTuple):
    """Where a tensor lies: its file, its name there, and its shape."""

    path: Path
    key: str
    shape: tuple[int, ...]


class StoredWeights:
    """The language model's tensors of a directory, by the names they have in memory.

    Attributes:
        directory: where they lie.
        tensors: name in memory, and where it is stored.
    """

    def __init__(self, directory: str | Path, family: Family, wrapper: str | None = None) -> None:
        """List the tensors; none is read yet.

        Args:
            wrapper: `model_type` of the multimodal model around the language model, if any.

        Raises:
            CheckpointError: a file is missing, is corrupt, or holds something else than weights.
        """
        self.directory = Path(directory)
        self.tensors: dict[str, Stored] = {}
        for path in weight_files(self.directory):
            for key, kind, shape in _listed(path):
                name = name_in_memory(key, family, wrapper)
                if name is not None:
                    self._add(name, Stored(path, key, shape), kind)

    def _add(self, name: str, found: Stored, kind: str) -> None:
        if kind not in FLOATS or QUANTIZED_PARTS.search(found.key):
            raise CheckpointError(
                f"{found.path}: {found.key} is stored as {kind}: the weights are quantized, which "
                "nlakit does not read. Give the checkpoint that they were quantized from."
            )
        if name in self.tensors:
            other = self.tensors[name]
            raise CheckpointError(
                f"{self.directory} stores {name} twice: as {other.key} in {other.path.name} and as "
                f"{found.key} in {found.path.name}. Remove the files that do not belong to it."
            )
        self.tensors[name] = found

    def read(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, file by file and one at a time.

        Raises:
            CheckpointError: a file has become unreadable.
        """
        wanted = [(name, self.tensors[name]) for name in names]
        for path in sorted({found.path for _, found in wanted}):
            with _opened(path) as file:
                for name, found in sorted(wanted):
                    if found.path == path:
                        yield name, file.get_tensor(found.key)

    def resolve_tie(self, config: Any, family: Family, *, headless: bool) -> None:
        """Settle which matrix the embedding is and which the head; changes the config if they
        are two.

        A tied config with two different matrices is a model with two, whatever the config says;
        and the one matrix of a tied model may be stored as the head.
        """
        if not config.tie_word_embeddings:
            return
        embedding, head = embedding_name(family), head_name(family)
        if embedding not in self.tensors and head in self.tensors:
            self.tensors[embedding] = self.tensors.pop(head)
        if embedding in self.tensors and head in self.tensors and not headless:
            first, second = dict(self.read({embedding, head})).values()
            config.tie_word_embeddings = torch.equal(first, second)
        if config.tie_word_embeddings:
            self.tensors.pop(head, None)


def embedding_name(family: Family) -> str:
    """The input embedding's name in a `state_dict`."""
    return f"{family.backbone}.{family.embedding}.weight"


def head_name(family: Family) -> str:
    """The language head's name in a `state_dict`."""
    return f"{family.head}.weight"


def weights_dtype(directory: str | Path) -> torch.dtype:
    """Of a directory's matrices on disk, by the first of them.

    Raises:
        CheckpointError: a file is missing or corrupt, or there is no matrix.
    """
    for path in weight_files(Path(directory)):
        with _opened(path) as file:
            for key in sorted(file.keys()):
                found = file.get_slice(key)
                if len(found.get_shape()) > 1 and found.get_dtype() in FLOATS:
                    return FLOATS[found.get_dtype()]
    raise CheckpointError(f"{directory} holds no matrix. Is the download complete?")


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a directory's weights: the one file, or the shards of its index.

    As transformers does, an index beside the one file is not looked at.

    Raises:
        CheckpointError: there are none, with what is there instead; a file that is none of its
            kind, such as a pipe or a Git LFS pointer.
    """
    one, index = directory / WEIGHTS_NAME, directory / INDEX_NAME
    if not one.exists() and index.exists():
        return [_checked(path) for path in _shards(index)]
    if not one.exists():
        raise CheckpointError(f"{one} is missing. {_instead(directory)}")
    return [_checked(one)]


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file, one at a time.

    Raises:
        CheckpointError: it is missing, corrupt, or no file of weights.
    """
    with _opened(_checked(path)) as file:
        for key in sorted(file.keys()):
            yield key, file.get_tensor(key)


def check_finite(tensor: Tensor, dtype: torch.dtype, what: str) -> None:
    """Refuse a weight that is not finite, or would not be in `dtype`.

    Raises:
        CheckpointError: naming `what`, and for an overflow what to do.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # Both propagate NaN, and one pass over memory is enough.
    low, high = (each.item() for each in torch.aminmax(tensor))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CheckpointError(f"{what} holds NaN or infinite numbers. Copy or download it again.")
    largest = max(-low, high)
    if largest > torch.finfo(dtype).max:
        raise CheckpointError(
            f"{what} holds {largest:.4g}, more than {str(dtype).removeprefix('torch.')} can "
            "represent. Load it in bfloat16 or float32."
        )


def name_in_memory(key: str, family: Family, wrapper: str | None = None) -> str | None:
    """A stored tensor's name in the language model; None: it is no weight of it.

    Some files have other names, and some were saved from the backbone, without its prefix.
    """
    ignored, renamed = family.ignored, family.renamed
    if wrapper is not None:
        ignored, renamed = (*ignored, *WRAPPERS[wrapper].ignored), WRAPPERS[wrapper].renamed
    if any(part in key for part in ignored):
        return None
    for old, new in renamed:
        if key.startswith(old):
            return new + key.removeprefix(old)
    if wrapper is not None:
        # A backbone's own names do not occur inside a wrapper: they would be another model's.
        return key if key.startswith(f"{family.head}.") else f"{wrapper}:{key}"
    if key.startswith((f"{family.backbone}.", f"{family.head}.")):
        return key
    return f"{family.backbone}.{key}"


def _shards(index: Path) -> list[Path]:
    listed = read_json_object(index, CheckpointError, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(listed, Mapping) or not listed:
        raise CheckpointError(f"{index} has no weight_map. Is the download complete?")
    for name in listed.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name:
            raise CheckpointError(
                f"{index}: weight_map names {name!r}, which is no safetensors file beside it."
            )
    return [index.parent / name for name in sorted(set(listed.values()))]


def _instead(directory: Path) -> str:
    """What to do where there are no safetensors, by what there is."""
    names = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"The weights are pickled ({pickled[0]}), and unpickling runs code from the file. "
            "Convert them to safetensors where you trust them: load with transformers, then "
            "`save_pretrained`."
        )
    other = [name for name in names if name.endswith((".safetensors", ".gguf"))]
    if other:
        return f"There is {', '.join(other[:3])} instead. Give the name or file that is wanted."
    return "Copy or download it again."


def _checked(path: Path) -> Path:
    """A path to read weights from. A pipe would be waited for, a device read without end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CheckpointError(f"{path} is missing. Copy or download it again.") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a file of weights but a device, pipe or directory.")
    return path


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Copy or download it again.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(len(LFS_HEADER))
    if start == LFS_HEADER:
        return (
            f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    return f"{path} is corrupt ({error}). Copy or download it again."


def _listed(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """Names, stored types and shapes of a file's tensors."""
    with _opened(path) as file:
        parts = ((key, file.get_slice(key)) for key in sorted(file.keys()))
        return [(key, part.get_dtype(), tuple(part.get_shape())) for key, part in parts]
