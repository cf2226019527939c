"""A storyworld target of a few thousand weights, made in memory."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nlakit.core.site import Site
from nlakit.models.target import Target
from nlakit.storyworld.grammar import generate
from nlakit.worlds.storyworld.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tiny_target() -> Target:
    """Two random blocks of width 16, read after the first, with a storyworld tokenizer."""
    texts = (made.text for made in islice(generate(1, "train"), 100))
    tokenizer = train_tokenizer(texts, vocab_size=500, context=512)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Target(LlamaForCausalLM(config).eval(), tokenizer, Site(0))
