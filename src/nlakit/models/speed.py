"""How fast this machine multiplies matrices: what an estimate of time starts from."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIZE, SECONDS = 1024, 0.3
"""A product of this size reaches a CPU's peak; the best of those that fit into the time counts."""


def product_speed(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """Multiplications and additions a second of square products on this CPU, all threads."""
    a, b = torch.ones(2, SIZE, SIZE, dtype=dtype).unbind()
    torch.mm(a, b)
    best, end = float("inf"), clock() + SECONDS
    while True:
        start = clock()
        torch.mm(a, b)
        best = min(best, clock() - start)
        if start >= end:
            return 2 * SIZE**3 / best
