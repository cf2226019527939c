"""A tiny random model of every family, of its real Hugging Face class."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

D_MODEL, WINDOW = 32, 8
SHAPE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, **SLIDING}
# Per case: model_type, and what differs from SHAPE. A window of 8 is shorter than the prompt.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, **SLIDING}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", {"sliding_window": WINDOW}),
    "gemma3_text": ("gemma3_text", GEMMA),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                                  "partial_rotary_factor": 0.5}}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
}  # fmt: skip


def make(case: str, vocab_size: int, context: int = 256) -> Any:
    """A random model whose logits are spread enough for greedy choices to be clear."""
    model_type, changes = CASES[case]
    options = {**SHAPE, **changes, "max_position_embeddings": context}
    if model_type.startswith("gpt"):
        del options["num_key_value_heads"]
    if "layer_types" in options:
        options["layer_types"] = options["layer_types"][: options["num_hidden_layers"]]
    config = AutoConfig.for_model(model_type, vocab_size=vocab_size, **options)
    torch.manual_seed(3)
    built = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            # Biases and norms start as constants, which would hide one that is not applied.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif name.endswith("c_proj.weight"):
                parameter.mul_(3)
    return built


def make_multimodal(vocab_size: int, context: int = 256) -> Any:
    """A random Gemma 3 as it is released: a model of images with the language model inside."""
    kinds = GEMMA["layer_types"][: SHAPE["num_hidden_layers"]]
    text = {**SHAPE, **GEMMA, "layer_types": kinds, "vocab_size": vocab_size}
    text["max_position_embeddings"] = context
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4, eos_token_id=[1, 5]
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
