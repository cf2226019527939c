"""Two processes that work together, as `torchrun` starts them."""

from __future__ import annotations

import faulthandler
import multiprocessing
import socket
from collections.abc import Callable
from datetime import timedelta

import peft  # noqa: F401  once for all children, like torch's parts below: seconds in each
import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp

WORK = 180
"""Seconds a child may take."""


def join(rank: int, port: int) -> None:
    """Become one of the two. A process that waits in vain says where, and ends."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(WORK, exit=True)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://localhost:{port}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=WORK),
    )


def in_two_processes(function: Callable[..., None], *arguments: object) -> list[int | None]:
    """Exit codes of `function(rank, port, *arguments)`, which calls `join`."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=function, args=(r, port, *arguments)) for r in (0, 1)]
    for each in started:
        each.start()
    for each in started:
        each.join(2 * WORK)
    codes = [each.exitcode for each in started]
    for each in started:
        each.kill()
    return codes
