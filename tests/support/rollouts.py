"""Tiny random pairs of a shape that vLLM runs on a CPU: heads of 32 and blocks of 32 tokens."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nlakit.contract import Extraction, Injection, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.models.adapters import adapted
from nlakit.models.lora import adapter_state
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.grammar import generate
from nlakit.train.prompts import AR_TEMPLATE, INSTRUCTED_AV_TEMPLATE
from nlakit.worlds.storyworld.tokenizer import MARKER, train_tokenizer

D_MODEL, CONTEXT, SCALE = 64, 512, 8.0


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [made.text for made in islice(generate(1, "train"), 40)]
    return train_tokenizer(texts, vocab_size=420, context=CONTEXT)


FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 32, "tie_word_embeddings": False},
    "llama": {"tie_word_embeddings": True},
    "mistral": {"head_dim": 32, "sliding_window": None},
    "phi3": {},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32},
}
"""What a tiny model of the family asks for besides its shape."""


def tiny_target(model_type: str = "qwen2") -> Target:
    """Three random blocks, whose logits are spread enough for greedy choices to be clear."""
    words = tokenizer()
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(words),
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.25,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **FAMILIES[model_type],
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return Target(model.eval(), words, Site(1))


def meta(role: Role, convention: Literal["replace", "add"]) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=D_MODEL,
        extraction=Extraction(base_model="tiny", layer_index=1, injection_scale=SCALE),
        injection=Injection(convention=convention, layer=1, coefficient=20.0),
        tokens=measure_tokens(tokenizer(), MARKER, INSTRUCTED_AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=INSTRUCTED_AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def tiny_pair(
    target: Target, convention: Literal["replace", "add"]
) -> tuple[Verbalizer, Reconstructor]:
    parts = target.model, target.tokenizer
    return (
        Verbalizer.from_target(*parts, meta("av", convention)),
        Reconstructor.from_target(*parts, meta("ar", convention)),
    )


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(7)) * 5


def adapted_verbalizer(
    target: Target, convention: Literal["replace", "add"], base: Path
) -> Verbalizer:
    """One with an adapter of rank 4 over the target's weights, its factors random."""
    view = adapted(target.model, rank=4, alpha=8, seed=3, base_name=str(base))
    generator = torch.Generator().manual_seed(4)
    for tensor in adapter_state(view).values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return Verbalizer(view, target.tokenizer, meta("av", convention))
