"""The parent's end of a side: a fresh process that prepares once and runs when told."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from .measure import Run

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "runs" / "bench" / "logs"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
FEWEST_ROUNDS = 2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class SideFailed(RuntimeError):
    """A side ended before it answered; says what it last wrote."""


class Side:
    """One side, `MODULE.NAME` of this package (see `worker`), started on entering.

    Args:
        side: which.
        options: what its factory takes.
        core: index among the cores this process may use; None leaves it unpinned.
        python: the interpreter, where it is not this one.
    """

    def __init__(
        self,
        side: str,
        options: Mapping[str, Any],
        *,
        threads: int = 1,
        core: int | None = 0,
        python: str = sys.executable,
    ) -> None:
        self.side, self.options, self.python, self.threads = side, dict(options), python, threads
        self.core = core
        self.cold_s = 0.0
        """From the start of the process to the end of its first, small piece of work."""

    def __enter__(self) -> Side:
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log = LOGS / f"{self.side}-{os.getpid()}-{id(self)}.log"
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [self.python, "-m", "benchmarks.worker", self.side, *self._pinned()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **OFFLINE, **threads},
            )
        self._started = time.perf_counter()
        self._send({"do": "prepare", "options": self.options})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if kind is None:
            self._log.unlink()

    def ready(self) -> dict[str, Any]:
        """Wait until it is prepared; what it says of itself."""
        facts = self._receive()
        self.cold_s = facts["prepared_at"] - self._started
        return facts

    def prepare(self, options: Mapping[str, Any]) -> None:
        """Get it ready for other options."""
        self._send({"do": "prepare", "options": dict(options)})
        self._receive()

    def begin(self) -> None:
        """Let it run; `finish` waits for the result."""
        self._send({"do": "run"})

    def finish(self) -> Run:
        """The run that was begun."""
        return Run(**self._receive())

    def run(self) -> Run:
        """Run once."""
        self.begin()
        return self.finish()

    def gemm(self, dtype: str = "float32") -> float:
        """Floating point operations a second of plain matrix products, in that process."""
        self._send({"do": "gemm", "dtype": dtype})
        return float(self._receive()["flops"])

    def _pinned(self) -> list[str]:
        if self.core is None or not hasattr(os, "sched_getaffinity"):
            return []
        cores = sorted(os.sched_getaffinity(0))
        return [str(cores[self.core % len(cores)])]

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed() from error

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> SideFailed:
        self._process.wait()
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return SideFailed(f"{self.side} {self.options} failed:\n{tail}")


def alternate(
    sides: Sequence[Side], rounds: int, blocks: int = 1, budget_s: float = math.inf
) -> list[list[Run]]:
    """Run the sides in turn, ABAB…, each in a process of its own; the runs of each.

    All start together and wait, so no start is timed with a run. Each block has fresh processes.
    After `FEWEST_ROUNDS`, no round is begun that would, at the pace so far, end after `budget_s`
    seconds of running.
    """
    runs: list[list[Run]] = [[] for _ in sides]
    spent, done = 0.0, 0

    def over() -> bool:
        return done >= FEWEST_ROUNDS and spent * (done + 1) / done > budget_s

    for _ in range(blocks):
        if over():
            break
        with ExitStack() as stack:
            for side in sides:
                stack.enter_context(side)
            for side in sides:
                side.ready()
            for _ in range(rounds):
                if over():
                    break
                for side, kept in zip(sides, runs, strict=True):
                    kept.append(side.run())
                    spent += kept[-1].wall_s
                done += 1
    return runs
