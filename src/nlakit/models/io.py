"""Model directories: safetensors in, safetensors out, whole or not at all.

Nothing here unpickles, runs code from a directory, or reaches the network.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from nlakit.card import ADAPTER_CONFIG
from nlakit.config import write_text_atomic
from nlakit.contract.templates import MAX_TEMPLATE_CHARS
from nlakit.errors import CheckpointError, MissingExtraError
from nlakit.files import MAX_BYTES, check_file, read_json_object
from nlakit.models.configs import BUILD_ERRORS, CONFIG_NAME, load_config, read_config
from nlakit.models.endings import distinct, give_endings, read_endings, save_endings
from nlakit.models.families import FAMILIES, WRAPPERS, Family, cut_config, family_of
from nlakit.models.lora import (
    ADAPTER_NAME,
    IN_MEMORY,
    PREFIX,
    AdapterTensor,
    Base,
    adapter_state,
    is_adapted,
    merge_adapter,
    open_checkpoint,
    split_name,
)
from nlakit.models.sharding import shard, whole_state, write_weight
from nlakit.models.tensor_files import write_tensors
from nlakit.models.weights import (
    WEIGHTS_NAME,
    StoredWeights,
    check_finite,
    embedding_name,
    head_name,
    name_in_memory,
    read_tensors,
    weights_dtype,
)

TOKENIZER_FILES = {
    "tokenizer.json": 1 << 28,
    "tokenizer_config.json": MAX_BYTES,
    "special_tokens_map.json": MAX_BYTES,
    "added_tokens.json": MAX_BYTES,
    "*.jinja": MAX_TEMPLATE_CHARS,
    "additional_chat_templates/*.jinja": MAX_TEMPLATE_CHARS,
}
"""Bytes that such a file may have. The largest vocabularies take 40 MB."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's `renameat2`."""
HEAD_NAME = "value_head.safetensors"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def stored_dtype(directory: str | Path) -> torch.dtype:
    """The precision that a directory's config names, or of its matrices where it names none; of an
    adapter's directory that of its base.

    Raises:
        CheckpointError: as `load_config` does, or there are no weights to look at.
    """
    weights = open_checkpoint(directory).weights
    return load_config(weights).dtype or weights_dtype(weights)


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory, with the family's chat template where it has none.

    Raises:
        CheckpointError: there is none to read.
    """
    if not (Path(directory) / "tokenizer_config.json").exists():
        raise CheckpointError(f"{directory} has no tokenizer_config.json. Is it complete?")
    _check_tokenizer_files(Path(directory))
    with _TokenizerFailures(Path(directory)):
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    config = Path(directory) / "config.json"
    family = (
        FAMILIES.get(str(read_json_object(config, CheckpointError).get("model_type")))
        if config.is_file()
        else None
    )
    if family is not None and not tokenizer.chat_template:
        tokenizer.chat_template = family.chat_template
    return tokenizer


class _TokenizerFailures(AbstractContextManager[None]):
    """Names the directory, and the file that the tokenizers library cannot read.

    Not an `except`: the library raises `Exception` itself, which has no name of its own.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> None:
        if kind is None or not (kind is Exception or issubclass(kind, TOKENIZER_ERRORS)):
            return
        path = self.directory / TOKENIZER_NAME
        where = path if kind is Exception else self.directory
        advice = f"It may be of a newer library than tokenizers {tokenizers.__version__}."
        raise CheckpointError(
            f"The tokenizer of {where} cannot be read: {error}. {advice}"
        ) from error


def _check_tokenizer_files(directory: Path) -> None:
    """Refuse what transformers would wait for, or read without an end."""
    for pattern, most in TOKENIZER_FILES.items():
        for path in directory.glob(pattern):
            try:
                check_file(path, CheckpointError, most)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def ending_ids(directory: str | Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a chat model's turn: of its tokenizer, its config and its generation config.

    Raises:
        CheckpointError: a config cannot be read.
    """
    config = load_config(directory)
    return distinct(tokenizer.eos_token_id, config.eos_token_id, read_endings(directory))


def load_backbone(
    directory: str | Path,
    num_blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    headless: bool = False,
    adapter: Path | None = None,
) -> Any:
    """A causal language model from `config.json` and safetensors.

    Args:
        num_blocks: keep only the first blocks; None keeps what the config says.
        dtype: in memory, whatever it is on disk.
        headless: return the backbone alone, its final norm replaced by the identity (a
            reconstructor's); such weights may then be in the file or not.
        adapter: directory of a LoRA adapter to merge into the weights.

    Raises:
        CheckpointError: a file is missing or corrupt, a key missing or unexpected, a shape wrong.
    """
    parts = _parts_of(directory, num_blocks, headless)
    model = _unfilled(parts, dtype)
    _fill(model, parts)
    give_endings(model, directory)
    if adapter is not None:
        _merge(model, adapter, parts)
    model.eval()
    return getattr(model, parts.family.backbone) if headless else model


def load_sharded(
    directory: str | Path,
    num_blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    device: str,
    headless: bool = False,
    trained: bool = False,
) -> Any:
    """As `load_backbone`, but each process keeps a part (`models.sharding`); all must call it.

    The model is made without memory; each process then reads the files a tensor at a time and
    keeps its part of it.

    Args:
        trained: its weights take gradients.

    Raises:
        CheckpointError: as `load_backbone` does.
        MissingExtraError: accelerate, which PEFT brings, is not installed.
    """
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise MissingExtraError("accelerate", "lora") from error
    parts = _parts_of(directory, num_blocks, headless)
    model = _unfilled(parts, dtype, init_empty_weights(include_buffers=False))
    shard(model, device, trained)
    _fill(model, parts)
    give_endings(model, directory)
    model.eval()
    return getattr(model, parts.family.backbone) if headless else model


class _Parts(NamedTuple):
    """What a model is put together from.

    Attributes:
        is_cut: only its first blocks are wanted; the files may hold more.
        headless: it has no head, and the identity for its final norm.
    """

    config: Any
    family: Family
    stored: StoredWeights
    is_cut: bool
    headless: bool


def _parts_of(directory: str | Path, num_blocks: int | None, headless: bool) -> _Parts:
    config, wrapper = read_config(directory)
    if num_blocks is not None:
        _check_depth(directory, num_blocks, config.num_hidden_layers)
        config = cut_config(config, num_blocks)
    family = family_of(config.model_type)
    stored = StoredWeights(directory, family, wrapper)
    stored.resolve_tie(config, family, headless=headless)
    _check_stored(config, family, stored)
    return _Parts(config, family, stored, num_blocks is not None, headless)


def _unfilled(parts: _Parts, dtype: torch.dtype, making: Any = None) -> Any:
    """The model, its weights unset."""
    try:
        with no_init_weights(), making or nullcontext():
            model = AutoModelForCausalLM.from_config(
                parts.config, dtype=dtype, trust_remote_code=False
            )
    except BUILD_ERRORS as error:
        raise CheckpointError(
            f"{parts.stored.directory / CONFIG_NAME} describes no model that can be made: {error}"
        ) from error
    # Tying is a part of the initialization that was left out.
    model.tie_weights()
    return _drop_head(model, parts.family) if parts.headless else model


def load_head(directory: str | Path, d_model: int) -> nn.Linear:
    """The reconstructor's linear head (`weight`, optional `bias`), in float32.

    Raises:
        CheckpointError: the file is missing or corrupt, or not a (d_model, d_model) head.
    """
    path = Path(directory) / HEAD_NAME
    tensors = dict(read_tensors(path))
    head = nn.Linear(d_model, d_model, bias="bias" in tensors, dtype=torch.float32)
    _check_keys(path, set(tensors), set(head.state_dict()), optional=set())
    for key, tensor in tensors.items():
        _copy(head.state_dict(), key, tensor, path)
    return head


def save_model(
    directory: Path, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None
) -> None:
    """Write weights, `config.json` and tokenizer files into an existing directory.

    Args:
        model: a causal language model, or a backbone: its keys are then written under the
            family's prefix, so that both kinds of directory have the same names. Of one with an
            adapter only the adapter is written, in PEFT's files.
        dtype: of the floating-point weights on disk; None keeps theirs.
    """
    tokenizer.save_pretrained(str(directory))
    if is_adapted(model):
        named = {PREFIX + key: tensor for key, tensor in adapter_state(model).items()}
        save_tensors(directory / ADAPTER_NAME, named, dtype)
        _save_adapter_config(directory, model.peft_config[IN_MEMORY])
        return
    family = family_of(model.config.model_type)
    prefix = "" if hasattr(model, family.backbone) else f"{family.backbone}."
    state = whole_state(model)
    if model.config.tie_word_embeddings:
        state.pop(f"{family.head}.weight", None)
    save_tensors(directory / WEIGHTS_NAME, {prefix + key: t for key, t in state.items()}, dtype)
    config = copy.deepcopy(model.config)
    config.dtype = dtype or model.dtype
    if not prefix:
        # Readers other than ours choose the class by this name.
        config.architectures = [type(model).__name__]
    config.save_pretrained(str(directory))
    save_endings(directory, model)


def _save_adapter_config(directory: Path, config: Any) -> None:
    """PEFT's file, with its lists in order: the adapted matrices are a set, which each process
    would write in an order of its own."""
    config.save_pretrained(str(directory))
    path = directory / ADAPTER_CONFIG
    raw = read_json_object(path, CheckpointError)
    ordered = {key: sorted(each) if isinstance(each, list) else each for key, each in raw.items()}
    write_text_atomic(path, json.dumps(ordered, indent=2, sort_keys=True) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Write a safetensors file through a temporary name."""
    ready = {key: _for_disk(tensor, dtype) for key, tensor in tensors.items()}
    write_tensors(path, ready, metadata={"format": "pt"})


@contextmanager
def atomic_directory(directory: str | Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `directory` when the block ends without error.

    After an error the old directory is as it was and the new one is gone.
    """
    final = Path(directory)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _swap(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, final: Path) -> None:
    if not final.exists():
        os.rename(new, final)
        return
    if _exchanged(new, final):
        return  # the old one now has the new one's name, and goes
    # A directory cannot be renamed onto one with files, so the old one steps aside first. A kill
    # between the two leaves neither under its name.
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two directories could be given each other's names at once: Linux, most disks."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _for_disk(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def _check_depth(directory: str | Path, asked: int, found: int) -> None:
    if not 1 <= asked <= found:
        raise CheckpointError(f"{asked} blocks were asked of {directory}, which has {found}.")


def _drop_head(model: Any, family: Family) -> Any:
    setattr(getattr(model, family.backbone), family.final_norm, nn.Identity())
    setattr(model, family.head, nn.Identity())
    return model


def _check_stored(config: Any, family: Family, stored: StoredWeights) -> None:
    """Compare the sizes that decide how much memory a model takes, before it takes any."""
    prefix = f"{family.backbone}.{family.blocks}."
    names = (name.removeprefix(prefix) for name in stored.tensors if name.startswith(prefix))
    num_stored = len({name.split(".")[0] for name in names})
    if config.num_hidden_layers > num_stored:
        raise CheckpointError(
            f"{stored.directory}: config.json says {config.num_hidden_layers} blocks, the files "
            f"hold {num_stored}. Weights and config.json do not belong together."
        )
    embedding = stored.tensors.get(embedding_name(family))
    asked = (config.vocab_size, config.hidden_size)
    if embedding is not None and embedding.shape != asked:
        raise CheckpointError(_misshapen(embedding.path, embedding.key, embedding.shape, asked))


def _fill(model: Any, parts: _Parts) -> None:
    """Copy the directory's tensors into the model, and insist that they fit exactly."""
    family, stored, state = parts.family, parts.stored, model.state_dict()
    optional = set()
    if model.config.tie_word_embeddings or parts.headless:
        optional.add(head_name(family))
    if parts.headless:
        norm = f"{family.backbone}.{family.final_norm}"
        optional |= {f"{norm}.weight", f"{norm}.bias"}
    past = {name for name in stored.tensors if parts.is_cut and _is_past(name, model, family)}
    found = stored.tensors.keys() - past
    _check_keys(stored.directory, found, set(state), optional)
    for key, tensor in stored.read(found & state.keys()):
        _copy(state, key, tensor, stored.tensors[key].path)


def _merge(model: Any, adapter: Path, parts: _Parts) -> None:
    state, family = model.state_dict(), parts.family
    tied = parts.config.tie_word_embeddings and not parts.headless
    base = Base(
        state,
        transposed=frozenset(
            f"{name}.weight" for name, each in model.named_modules() if isinstance(each, Conv1D)
        ),
        one_matrix=(embedding_name(family), head_name(family)) if tied else (),
    )
    merge_adapter(base, adapter, _adapter_tensors(adapter, model, parts, state))


def _adapter_tensors(
    directory: Path, model: Any, parts: _Parts, state: Mapping[str, Tensor]
) -> Iterator[AdapterTensor]:
    """An adapter's tensors; those of cut blocks, and of a head that is not there, left out."""
    for key, tensor in read_tensors(directory / ADAPTER_NAME):
        module, weight, half, wrapped = split_name(key)
        weight = _adapted_name(weight, parts.family, state)
        left_out = parts.is_cut and _is_past(weight, model, parts.family)
        if not left_out and not (parts.headless and weight == head_name(parts.family)):
            yield AdapterTensor(module, weight, half, wrapped, tensor)


def _adapted_name(key: str, family: Family, state: Mapping[str, Tensor]) -> str:
    """An adapter may have been trained inside a wrapper that the weights are not stored in."""
    blocks = f"{family.backbone}.{family.blocks}."
    named = [name_in_memory(key, family, wrapper) for wrapper in (None, *WRAPPERS)]
    known = [name for name in named if name is not None]
    # What is not in the state may be of a block that was cut off.
    return next(
        (n for n in known if n in state or n.startswith(blocks)), known[0] if known else key
    )


def _is_past(key: str, model: Any, family: Family) -> bool:
    """Whether a key belongs to a block that was cut off."""
    prefix = f"{family.backbone}.{family.blocks}."
    block = key.removeprefix(prefix).split(".")[0]
    is_block = key.startswith(prefix) and block.isdigit()
    return is_block and int(block) >= model.config.num_hidden_layers


def _copy(state: Mapping[str, Tensor], key: str, tensor: Tensor, path: Path) -> None:
    """Write a tensor of a file into the weight of its name."""
    if state[key].shape != tensor.shape:
        raise CheckpointError(_misshapen(path, key, tensor.shape, state[key].shape))
    check_finite(tensor, state[key].dtype, f"{path}: {key}")
    with torch.no_grad():
        write_weight(state[key], tensor)


def _misshapen(path: Path, key: str, found: Sequence[int], asked: Sequence[int]) -> str:
    return (
        f"{path}: {key} has the shape {tuple(found)}, config.json asks for {tuple(asked)}. "
        "Weights and config do not belong together."
    )


def _check_keys(where: Path, found: set[str], expected: set[str], optional: set[str]) -> None:
    missing = sorted(expected - found - optional)
    unexpected = sorted(found - expected - optional)
    if missing or unexpected:
        raise CheckpointError(
            f"{where}: {len(missing)} weights are missing{_few(missing)} and {len(unexpected)} are "
            f"unexpected{_few(unexpected)}. Weights and config.json do not belong together."
        )


def _few(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f" ({shown})" if keys else ""
