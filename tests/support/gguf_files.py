"""GGUF files of tiny models, written as llama.cpp's converters write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from support.families import CASES, SHAPE

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
AFTER = {"post_attention_layernorm": "ffn_norm"}
GEMMA_AFTER = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
WORDS = ["The harbour was quiet and 12 boats came home.", "don't wait, it's 2024\n\n3 letters"] * 8
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level() -> Tokenizer:
    """A trained vocabulary of bytes and some merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(WORDS, trainer)
    return made


def write_gguf(
    path: Path,
    model: Any,
    kind: Kind = Kind.F32,
    pre: str = "smollm",
    factors: torch.Tensor | None = None,
    **facts: Any,
) -> Path:
    """Write a model and a byte-level vocabulary.

    Args:
        kind: of the matrices; norms and biases are F32.
        factors: what rotary frequencies are divided by, as Llama 3.1's files have them.
        facts: further settings, or other values, by their name without the architecture.
    """
    config, name = model.config, ARCHITECTURES[model.config.model_type]
    writer = GGUFWriter(path, name)
    _write_facts(writer, config, name, facts)
    _write_vocabulary(writer, pre)
    for key, tensor in model.state_dict().items():
        if config.tie_word_embeddings and key == "lm_head.weight":
            continue
        stored, array = _stored(key, tensor, config)
        if array.ndim == 1:
            writer.add_tensor(stored, array)
        else:
            writer.add_tensor(stored, gguf.quantize(array, kind), raw_dtype=kind)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny(kind: str, **changes: Any) -> Any:
    """A tiny random model for that vocabulary, with other settings."""
    model_type, own = CASES[kind]
    options = {**SHAPE, **own, "layer_types": own.get("layer_types", [])[:3] or None, **changes}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=byte_level().get_vocab_size(),
        max_position_embeddings=256,
        **{name: value for name, value in options.items() if value is not None},
    )
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            # Norms and biases start as constants, which would hide one in a wrong place.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def _write_facts(writer: GGUFWriter, config: Any, name: str, facts: dict[str, Any]) -> None:
    rope = config.rope_parameters
    theta = rope.get("full_attention", rope)["rope_theta"]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if name == "llama":
        writer.add_rope_dimension_count(head_dim)
    if name == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    for key, value in facts.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        full = key if key.startswith(("general.", "tokenizer.", "split.")) else f"{name}.{key}"
        add[type(value)](full, value)


def _write_vocabulary(writer: GGUFWriter, pre: str) -> None:
    made = byte_level()
    vocabulary = sorted(made.get_vocab().items(), key=lambda each: each[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token in SPECIALS else 1 for token, _ in vocabulary])
    merges = json.loads(made.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)


def _stored(key: str, tensor: torch.Tensor, config: Any) -> tuple[str, np.ndarray]:
    is_gemma = config.model_type == "gemma3_text"
    body, leaf = key.rsplit(".", 1)
    if body in OUTER:
        name = OUTER[body]
    else:
        _, _, block, inner = body.split(".", 3)
        name = f"blk.{block}." + {**NAMES, **(GEMMA_AFTER if is_gemma else AFTER)}[inner]
    if is_gemma and "norm" in name:
        tensor = tensor + 1
    if config.model_type == "llama" and name.endswith(("attn_q", "attn_k")):
        heads = config.num_attention_heads if name.endswith("q") else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        tensor = halves.transpose(1, 2).reshape(tensor.shape)
    return f"{name}.{leaf}", np.ascontiguousarray(tensor.detach().float().numpy())
