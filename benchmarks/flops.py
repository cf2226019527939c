"""How much arithmetic a model's forward takes, and how fast this processor can do any."""

from __future__ import annotations

import time

import torch

from .specs import PREFIX_TOKENS, SUFFIX_TOKENS, Spec

GEMM_SIZE, GEMM_SIZE_ON_ACCELERATORS, GEMM_SECONDS = 1024, 8192, 1.0
COPY_BYTES = 1 << 28


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


def forward_flops(
    spec: Spec, rows: int, own: int, prefix: int, blocks: int, head_tokens: int
) -> tuple[float, float]:
    """Operations of one forward of `rows` rows of `own` tokens each after a prefix that is run
    once: of the weights, and of attention.

    Args:
        head_tokens: tokens whose logits are taken.
    """
    tokens = prefix + rows * own
    seen = prefix * (prefix + 1) / 2 + rows * (own * prefix + own * (own + 1) / 2)
    weights = tokens * blocks * block_flops(spec) + 2 * spec.d_model * spec.vocab_size * head_tokens
    return weights, 4 * spec.d_model * blocks * seen


def adapter_flops(spec: Spec, rank: int) -> float:
    """Operations of the adapters of one block's seven matrices for one token."""
    kv = spec.num_kv_heads * spec.d_model // spec.num_heads
    widths = (
        2 * (2 * spec.d_model) + 2 * (spec.d_model + kv) + 3 * (spec.d_model + spec.intermediate)
    )
    return 2 * rank * widths


def step_flops(
    spec: Spec, rows: int, own: int, prefix: int, blocks: int, head_tokens: int, rank: int
) -> float:
    """Operations of a training forward and backward of adapters on a frozen base.

    The base's matrices are multiplied twice, since they have no gradient of their own; adapters and
    attention three times. What an implementation computes again is not counted.
    """
    weights, attention = forward_flops(spec, rows, own, prefix, blocks, head_tokens)
    adapters = (prefix + rows * own) * blocks * adapter_flops(spec, rank)
    return 2 * weights + 3 * (adapters + attention)


def gemm_flops(device: str = "cpu", dtype: str = "float32") -> float:
    """Operations a second of square products, the best of those tried for a second."""
    size = GEMM_SIZE if device == "cpu" else GEMM_SIZE_ON_ACCELERATORS
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    a, b = torch.randn(2, size, size, device=device).to(kind).unbind()
    best, end = float("inf"), time.perf_counter() + GEMM_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def copy_bandwidth(device: str) -> float:
    """Bytes a second that are read and written by copies of `COPY_BYTES`, the best of ten."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * COPY_BYTES / best


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
