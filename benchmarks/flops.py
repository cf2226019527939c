"""How much arithmetic a model's forward takes, and how fast this processor can do any."""

from __future__ import annotations

import time

import torch

from .specs import PREFIX_TOKENS, SUFFIX_TOKENS, Spec

GEMM_SIZE, GEMM_SECONDS = 1024, 1.0


def explain_flops(spec: Spec, rows: int, new_tokens: int) -> float:
    """Operations to explain `rows` vectors where the prefix is shared: multiplications and
    additions of all matrix products, attention included. The prefix itself is not counted."""
    prompt = 1 + SUFFIX_TOKENS
    # The last token written is not read again; one position of the prompt goes through the head.
    tokens = prompt + new_tokens - 1
    head = 2 * spec.d_model * spec.vocab_size * new_tokens
    seen = sum(PREFIX_TOKENS + place for place in range(1, tokens + 1))
    attention = 4 * spec.d_model * spec.num_layers * seen
    return rows * (tokens * block_flops(spec) * spec.num_layers + attention + head)


def block_flops(spec: Spec) -> float:
    """Operations of one block's linear maps for one token."""
    head_dim = spec.d_model // spec.num_heads
    qkv = spec.d_model * (spec.num_heads + 2 * spec.num_kv_heads) * head_dim
    return 2 * (qkv + spec.d_model**2 + 3 * spec.d_model * spec.intermediate)


def gemm_flops() -> float:
    """Operations a second of square float32 products, the best of those tried for a second."""
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE).unbind()
    best, end = float("inf"), time.perf_counter() + GEMM_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * GEMM_SIZE**3 / best
