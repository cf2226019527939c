"""Who does the jobs of a long run: this process, or several on this machine.

A pool knows nothing of what a job is for. A job leaves its result on disk, in a file that nobody
else writes, so it may be done by anybody, in any order, and again where a worker was lost. On many
machines: `ray_pool`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from nlakit.errors import InputError, UserError

JobT = TypeVar("JobT")
ToolT = TypeVar("ToolT")

PARENT_POLL_S = 1.0
SEEN_POLL_S = 1.0
SEEN_WITHIN_S = 90.0
"""A network file system may show a file that another machine wrote as late as this."""


class Pool(Protocol):
    """Shares jobs out among workers."""

    def run(
        self,
        load: Callable[[], ToolT],
        task: Callable[[ToolT, JobT], Any],
        jobs: Sequence[JobT],
    ) -> Iterator[JobT]:
        """Do every job, yielding each as it is finished, in any order.

        Args:
            load: makes what the work is done with; called once in each worker that has a job.
                Picklable where there are several workers, and so are `task` and the jobs.
            task: does one job.

        Raises:
            UserError: a job raised one, or workers were killed.
        """
        ...


@dataclass(frozen=True)
class Processes:
    """`count` processes on this machine; where one is enough, it is this one.

    Raises:
        InputError: a count below 1.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"processes must be 1 or more, found {self.count}.")

    def run(
        self,
        load: Callable[[], ToolT],
        task: Callable[[ToolT, JobT], Any],
        jobs: Sequence[JobT],
    ) -> Iterator[JobT]:
        """As `Pool.run`. A killed process ends the run."""
        count = min(self.count, len(jobs))
        if count > 1:
            yield from _run_in_processes(load, task, jobs, count)
            return
        loaded = [load()] if jobs else []
        for job in jobs:
            task(loaded[0], job)
            yield job


HERE = Processes(1)
"""The process that asks."""


def wait_until_seen(path: Path, is_whole: Callable[[], object]) -> None:
    """Return once a file that a worker has written is whole here too, as `is_whole` says.

    Raises:
        UserError: it is not within `SEEN_WITHIN_S`: the worker's disk is another one.
    """
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not is_whole():
        if time.monotonic() > deadline:
            raise UserError(
                f"A worker has written {path}, and it is not here. Give an --output, on a disk "
                "that every machine sees under the same name."
            )
        time.sleep(SEEN_POLL_S)


def _run_in_processes(
    load: Callable[[], Any], task: Callable[[Any, JobT], Any], jobs: Sequence[JobT], count: int
) -> Iterator[JobT]:
    threads = max(1, torch.get_num_threads() // count)
    pool = ProcessPoolExecutor(
        count,
        # A forked child would inherit the threads' locks without the threads.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(load, task, threads, os.getpid()),
    )
    try:
        futures = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise UserError(
            "A process was killed at its work, perhaps for its memory. "
            "Run the same command again: it goes on where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker(NamedTuple):
    loaded: Any
    task: Callable[[Any, Any], Any]


_worker: list[_Worker] = []
"""Of this process, once it was started: what the pool hands over reaches no other place."""


def _start_worker(
    load: Callable[[], Any], task: Callable[[Any, Any], Any], threads: int, parent: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _worker[:] = [_Worker(load(), task)]


def _work(job: Any) -> None:
    _worker[0].task(_worker[0].loaded, job)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)
