"""A step on fixed buffers, recorded once as a CUDA graph and then replayed.

A decode step is some six hundred small operations, which a host launches in ten times the time that
a GPU takes to run them; a graph is launched as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2
"""Runs before the recording: libraries choose kernels and workspaces in their first ones."""


class Recorder:
    """Records steps of one device, whose graphs share their temporary memory: no two of them run at
    a time, and none reads what another has left."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def captured(self, run: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
        """`run` as a graph where the device is CUDA, else `run` itself.

        Args:
            run: reads and writes tensors whose addresses stay, asks the device for no number, and
                leaves nothing behind but what it writes.
            state: what it changes; is as it was afterwards.
        """
        if self._pool is None:
            return run
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            rehearse(run, state)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: a server's do.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        return graph.replay


def rehearse(run: Callable[[], None], state: Sequence[Tensor]) -> None:
    """Run a few times, and put the state back to what it was."""
    before = [each.clone() for each in state]
    for _ in range(WARM_UPS):
        run()
    for each, kept in zip(state, before, strict=True):
        each.copy_(kept)
