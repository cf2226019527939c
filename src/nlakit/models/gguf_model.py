"""The model in a GGUF file: its config, and its tensors in transformers' layout.

Only the architectures of `ARCHITECTURES`, and of those only what is understood in full: a tensor or
a setting that is not known is refused by its name. Facts about the format: llama.cpp's converters
store the rotary halves of Llama's queries and keys interleaved, and Gemma's norms plus one; some
versions store long-context factors as a tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlakit.errors import CheckpointError
from nlakit.models.gguf_reader import UNQUANTIZED, GgufFile

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA_NORMS = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ROPE_FACTORS = "rope_freqs.weight"
KNOWN_FACTS = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "vocab_size",
    }
)
GEMMA_FACTS = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})
"""Settings of an architecture. Any other one that is set may change what the blocks compute."""

GEMMA_27B_BLOCKS = 62
GEMMA_PATTERN = 6
"""Of six blocks of Gemma 3 the last attends to everything."""
GEMMA_LOCAL_THETA = 10_000.0
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192
"""What every Llama 3.1 to 3.3 has; the factor differs, and is read off the file's tensor."""


class Architecture(NamedTuple):
    """What differs between the architectures that are read.

    Attributes:
        model_type: transformers' name of it.
        inner: names inside a block, theirs to ours.
        interleaved: whether the halves of queries and keys are stored interleaved.
        norm_offset: what the stored norms are larger by.
    """

    model_type: str
    inner: Mapping[str, str]
    interleaved: bool = False
    norm_offset: float = 0.0


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", INNER, interleaved=True),
    "qwen2": Architecture("qwen2", INNER),
    "qwen3": Architecture("qwen3", INNER | HEAD_NORMS),
    "gemma3": Architecture("gemma3_text", INNER | HEAD_NORMS | GEMMA_NORMS, norm_offset=1.0),
}


class GgufModel:
    """The model in a file. Nothing of its tensors is read before `tensors`.

    Attributes:
        path: where it lies.
        facts: its metadata by name.

    Raises:
        CheckpointError: it is none, cut short, or a part of one.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = GgufFile(path)
        self.path, self.facts = self._file.path, self._file.facts
        kind, parts = self.facts.get("general.type", "model"), self.facts.get("split.count", 1)
        if kind != "model" or parts not in (0, 1):
            raise CheckpointError(
                f"{self.path} is a {kind} in {parts} files; a whole model in one file is read. "
                "Merge its parts (llama.cpp's gguf-split --merge)."
            )

    @cached_property
    def architecture(self) -> Architecture:
        """Its row of the table. Raises `CheckpointError` where it has none."""
        name = self.facts.get("general.architecture")
        if name not in ARCHITECTURES:
            raise CheckpointError(
                f"{self.path}: architecture {name!r} is not read from GGUF. "
                f"Read: {', '.join(ARCHITECTURES)}. Give the original checkpoint."
            )
        return ARCHITECTURES[name]

    @property
    def names(self) -> set[str]:
        """Names of its tensors."""
        return set(self._file.tensors)

    @property
    def kinds(self) -> Counter[str]:
        """How many tensors are stored in each type."""
        return Counter(each.kind.name for each in self._file.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """What holds its matrices without loss: their own type, or float32 for quantized ones."""
        kinds = {each.kind for each in self._file.tensors.values() if len(each.shape) > 1}
        only = kinds.pop() if len(kinds) == 1 else None
        return torch.float32 if only is None else UNQUANTIZED.get(only, torch.float32)

    def fact(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting of its architecture, such as `block_count`.

        Raises:
            CheckpointError: there is none and no default, or it is of another kind.
        """
        key = f"{self.facts.get('general.architecture')}.{name}"
        found = self.facts.get(key, default)
        if isinstance(found, bool) or not isinstance(found, kind):
            raise CheckpointError(f"{self.path}: {key} is {found!r}, not a {kind.__name__}.")
        return found

    def _check_facts(self) -> None:
        prefix = f"{self.facts['general.architecture']}."
        known = KNOWN_FACTS | (GEMMA_FACTS if self.architecture.norm_offset else set())
        for key, found in self.facts.items():
            if key.startswith(prefix) and key.removeprefix(prefix) not in known and found:
                raise CheckpointError(
                    f"{self.path}: {key} is {found!r}, which is not read from GGUF. Give the "
                    "original checkpoint."
                )

    # -- config ------------------------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """The `config.json` that the file describes.

        Raises:
            CheckpointError: a setting that is missing, or is not understood.
        """
        self._check_facts()
        heads = self.fact("attention.head_count", int)
        width, blocks = self.fact("embedding_length", int), self.fact("block_count", int)
        rotary = self.fact("rope.dimension_count", int, width // max(heads, 1))
        head_dim = self.fact("attention.key_length", int, rotary)
        if self.fact("attention.value_length", int, head_dim) != head_dim or rotary > head_dim:
            raise CheckpointError(f"{self.path}: keys, values and rotations differ in width.")
        common = {
            "model_type": self.architecture.model_type,
            "hidden_size": width,
            "intermediate_size": self.fact("feed_forward_length", int),
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": self.fact("attention.head_count_kv", int, heads),
            "head_dim": head_dim,
            "rms_norm_eps": self._epsilon(),
            "max_position_embeddings": self.fact("context_length", int),
            "vocab_size": self._num_rows("token_embd.weight"),
            "tie_word_embeddings": "output.weight" not in self.names,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self._token_ids(),
        }
        return common | {
            "llama": self._llama,
            "qwen2": self._qwen2,
            "qwen3": self._qwen3,
            "gemma3_text": self._gemma,
        }[self.architecture.model_type](common)

    def _llama(self, common: Mapping[str, Any]) -> dict[str, Any]:
        has_bias = "blk.0.attn_q.bias" in self.names
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": has_bias,
            "mlp_bias": "blk.0.ffn_up.bias" in self.names,
            "rope_parameters": self._rope(10_000.0),
        }

    def _qwen2(self, common: Mapping[str, Any]) -> dict[str, Any]:
        return {"architectures": ["Qwen2ForCausalLM"], "rope_parameters": self._rope(10_000.0)}

    def _qwen3(self, common: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": "blk.0.attn_q.bias" in self.names,
            "rope_parameters": self._rope(1_000_000.0),
        }

    def _gemma(self, common: Mapping[str, Any]) -> dict[str, Any]:
        blocks, head_dim = common["num_hidden_layers"], common["head_dim"]
        pattern = self.fact("attention.sliding_window_pattern", int, GEMMA_PATTERN)
        # llama.cpp knows the largest one by its number of blocks; the file does not say it.
        large = blocks == GEMMA_27B_BLOCKS
        scalar = common["hidden_size"] // common["num_attention_heads"] if large else head_dim
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "query_pre_attn_scalar": scalar,
            "sliding_window": self.fact("attention.sliding_window", int),
            "layer_types": [
                "sliding_attention" if (block + 1) % pattern else "full_attention"
                for block in range(blocks)
            ],
            "rope_parameters": {
                "full_attention": self._rope(1_000_000.0),
                "sliding_attention": {"rope_type": "default", "rope_theta": GEMMA_LOCAL_THETA},
            },
        }

    def _num_rows(self, name: str) -> int:
        if name not in self._file.tensors:
            raise CheckpointError(f"{self.path} has no tensor {name}. Is the download complete?")
        return self._file.tensors[name].shape[0]

    def _epsilon(self) -> float:
        """The file rounds it to float32; a config says what was meant."""
        return float(f"{self.fact('attention.layer_norm_rms_epsilon', float):.6g}")

    def _token_ids(self) -> dict[str, Any]:
        names = {"bos": "bos", "eos": "eos", "pad": "padding"}
        found = {f"{ours}_token_id": self.facts.get(f"tokenizer.ggml.{theirs}_token_id")
                 for ours, theirs in names.items()}  # fmt: skip
        return {name: each if isinstance(each, int) else None for name, each in found.items()}

    def _rope(self, theta: float) -> dict[str, Any]:
        base = {"rope_type": "default", "rope_theta": self.fact("rope.freq_base", float, theta)}
        kind = self.fact("rope.scaling.type", str, "none")
        if ROPE_FACTORS in self.names:
            return base | self._llama3_rope(base["rope_theta"])
        if kind == "none":
            return base
        factor = self.fact("rope.scaling.factor", float)
        if kind == "linear":
            return base | {"rope_type": "linear", "factor": factor}
        if kind == "yarn":
            original = self.fact("rope.scaling.original_context_length", int)
            return base | {"rope_type": "yarn", "factor": factor,
                           "original_max_position_embeddings": original}  # fmt: skip
        raise CheckpointError(f"{self.path}: rope.scaling.type {kind!r} is not read from GGUF.")

    def _llama3_rope(self, theta: float) -> dict[str, Any]:
        """Llama 3.1's rotary scaling, which the file has as one factor a frequency."""
        stored = self._file.read(ROPE_FACTORS).double()
        found = {
            "rope_type": "llama3",
            "factor": float(f"{float(stored.max()):.6g}"),
            "low_freq_factor": LLAMA3_LOW,
            "high_freq_factor": LLAMA3_HIGH,
            "original_max_position_embeddings": LLAMA3_CONTEXT,
        }
        expected = _llama3_factors(len(stored), theta, found["factor"])
        if not torch.allclose(stored, expected, rtol=1e-4):
            raise CheckpointError(
                f"{self.path}: {ROPE_FACTORS} holds other factors than Llama 3's. Give the "
                "original checkpoint."
            )
        return found

    # -- tensors -----------------------------------------------------------------------------------
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors as transformers has them, dequantized, one at a time.

        Raises:
            CheckpointError: a tensor that the architecture has no place for.
        """
        for name in sorted(self.names - {ROPE_FACTORS}):
            yield self._name(name), self._as_stored_by_transformers(name, self._file.read(name))

    def _name(self, name: str) -> str:
        parts = name.split(".")
        body, leaf = ".".join(parts[:-1]), parts[-1]
        if parts[0] == "blk" and len(parts) == 4 and parts[1].isdigit():
            inner = self.architecture.inner.get(parts[2])
            full = inner and f"model.layers.{int(parts[1])}.{inner}"
        else:
            full = OUTER.get(body)
        if full is None or leaf not in ("weight", "bias"):
            raise CheckpointError(
                f"{self.path}: the tensor {name} is not known of this architecture, so the model "
                "would be another one without it. Give the original checkpoint."
            )
        return f"{full}.{leaf}"

    def _as_stored_by_transformers(self, name: str, tensor: Tensor) -> Tensor:
        architecture, parts = self.architecture, name.split(".")
        if architecture.norm_offset and parts[-2].endswith("_norm"):
            return (tensor.float() - architecture.norm_offset).to(tensor.dtype)
        if architecture.interleaved and parts[-2] in ("attn_q", "attn_k"):
            heads = self.fact("attention.head_count", int)
            if parts[-2] == "attn_k":
                heads = self.fact("attention.head_count_kv", int, heads)
            return halves_apart(tensor, heads)
        return tensor


def halves_apart(tensor: Tensor, heads: int) -> Tensor:
    """Rows of each head from (x0, y0, x1, y1, …) back to (x0, x1, …, y0, y1, …)."""
    pairs = tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()


def _llama3_factors(count: int, theta: float, factor: float) -> Tensor:
    """What each rotary frequency is divided by (transformers' rope type llama3)."""
    frequencies = theta ** -(torch.arange(count).double() / count)
    turns = LLAMA3_CONTEXT * frequencies / (2 * math.pi)
    smooth = ((turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
