"""A pool of Ray actors, on this machine or a cluster, fed by Ray Data.

Only the numbers of jobs and what a person must be told go through Ray: vectors and words stay on
the disk, so that a run may change between Ray and `pools.Processes` whenever it is interrupted.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from nlakit.errors import InputError, MissingExtraError, RemoteError, UserError

JobT = TypeVar("JobT")
ToolT = TypeVar("ToolT")

LOCAL = "local"
LOST_AT_MOST = 3
"""Workers that one job may lose: it may be the job that kills them."""
DEADLY = (
    f"One shard lost more than {LOST_AT_MOST} Ray workers, perhaps for their memory. Give fewer "
    "workers, and run the same command again: it goes on where it stopped."
)
OBJECT_STORE_BYTES = 128 * 2**20
"""Of a cluster started here. Ray takes a third of the memory unless it is told."""


@dataclass(frozen=True)
class RayPool:
    """`workers` actors of one CPU each, and of `gpus` GPUs each.

    The jobs of a worker that was killed are done by another, which Ray starts where there is room.

    Attributes:
        address: of a running cluster ("auto": the one this machine belongs to). None: one of
            `workers` CPUs is started on this machine and ended with the run.
        gpus: a share of one, or several; the job must put its models there.

    Raises:
        InputError: no workers, or a negative number of GPUs.
    """

    workers: int
    address: str | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"Ray workers must be 1 or more, found {self.workers}.")
        if self.gpus < 0:
            raise InputError(f"GPUs of a Ray worker cannot be fewer than 0, found {self.gpus}.")

    def run(
        self,
        load: Callable[[], ToolT],
        task: Callable[[ToolT, JobT], Any],
        jobs: Sequence[JobT],
    ) -> Iterator[JobT]:
        """As `pools.Pool.run`. What a job raises as `UserError` is told as one.

        Raises:
            MissingExtraError: Ray is not installed.
            RemoteError: there is no cluster at the address, or it does not let us in.
            InputError: GPUs were asked of this machine, which has fewer.
            UserError: one job lost more than `LOST_AT_MOST` workers.
        """
        ray = _import_ray()
        if not jobs:
            return
        with self._cluster(ray), _quiet_data(ray):
            counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts)
            attempts = counter.remote()
            given = (load, task, tuple(jobs), lambda job: ray.get(attempts.begin.remote(job)))
            answers = self._actors(ray, given, len(jobs))
            for answer in answers.iter_batches(batch_size=1, prefetch_batches=0):
                if answer["problem"][0]:
                    raise UserError(str(answer["problem"][0]))
                yield jobs[int(answer["job"][0])]

    def _actors(self, ray: Any, given: tuple[Any, ...], num_jobs: int) -> Any:
        """A dataset whose rows are what workers answer to the numbers of the jobs."""
        numbers = [{"job": number} for number in range(num_jobs)]
        workers = min(self.workers, num_jobs)
        # Ray Data restarts an actor that dies, and gives it what it had, as often as it takes.
        return ray.data.from_items(numbers, override_num_blocks=num_jobs).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=given,
            # It may shrink: a worker that waits for a lost machine gets the place of an idle one.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=workers,
                max_size=workers,
                max_tasks_in_flight_per_actor=1,
            ),
            num_cpus=1,
            num_gpus=self.gpus,
        )

    @contextmanager
    def _cluster(self, ray: Any) -> Iterator[None]:
        """A connection for the run; one that the caller has made is used and kept."""
        if ray.is_initialized():
            yield
            return
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address is None:
            # Ray would tell its makers about the use of this machine.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            quiet |= {
                "num_cpus": self.workers,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            ray.init(self.address or LOCAL, **quiet)
        except ConnectionError as error:
            raise RemoteError(
                f"Asked for the Ray cluster at {self.address!r}; could not join it: {error} "
                "Is it running (`ray start --head`)? Where it asks for a token, set "
                "RAY_AUTH_MODE=token. Without an address the work is done on this machine."
            ) from error
        try:
            self._check_gpus(ray)
            yield
        finally:
            ray.shutdown()

    def _check_gpus(self, ray: Any) -> None:
        """Refuse what would wait for ever. A cluster elsewhere may grow, so it is not asked."""
        here = ray.cluster_resources().get("GPU", 0)
        if self.address is None and here < self.gpus:
            raise InputError(
                f"Asked for {self.gpus:g} GPUs for each Ray worker; this machine has {here:g}. "
                "Ask for fewer, or give the address of a cluster."
            )


class _Attempts:
    """Counts, apart from the workers, how often each job was begun."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, job: int) -> int:
        """How often it was begun before."""
        self.counts[job] += 1
        return self.counts[job] - 1


class _Worker:
    """Does jobs in an actor, with what it loads for the first of them.

    Args:
        begin: told the number of a job, says how often it was begun before.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        task: Callable[[Any, Any], Any],
        jobs: Sequence[Any],
        begin: Callable[[int], int],
    ) -> None:
        self.load, self.task, self.jobs, self.begin = load, task, jobs, begin

    @cached_property
    def loaded(self) -> Any:
        """Loaded within a job, so that a worker killed at it counts as lost by that job."""
        return self.load()

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Do the one job of a batch; the answer's `problem` is a message for a person, or empty."""
        return {"job": batch["job"], "problem": np.array([self._do(int(batch["job"][0]))])}

    def _do(self, number: int) -> str:
        if self.begin(number) > LOST_AT_MOST:
            return DEADLY
        try:
            self.task(self.loaded, self.jobs[number])
        except UserError as error:
            return str(error)
        return ""


@contextmanager
def _quiet_data(ray: Any) -> Iterator[None]:
    """Ray Data without its bars and its banner, and patient with jobs of hours."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


def _import_ray() -> Any:
    try:
        import ray  # type: ignore[import-not-found]
        import ray.data  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray
