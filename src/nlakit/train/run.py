"""A training run on disk: resolved config, metrics, checkpoints that a killed run resumes from.

Knows nothing of what is trained. Random numbers everywhere in `train` are functions of (seed,
step),
so a checkpoint holds weights, optimiser moments and the number of steps done, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nlakit.config import FrozenModel, write_resolved
from nlakit.errors import CheckpointError, ResumeError

from . import distributed
from .memory import keep_freed_memory

StepFunction = Callable[[int], Mapping[str, float]]
KEPT_CHECKPOINTS = 2


class Resumable(Protocol):
    """What a run trains: a checkpoint holds its state (`learner.Learner` is one)."""

    @property
    def sharded(self) -> object:
        """Not empty (or true) where each process has, and writes, a part of the weights."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as one flat table."""
        ...

    def load_state(self, table: Mapping[str, Tensor]) -> None:
        """The inverse of `state`. Raises `KeyError` when something is missing."""
        ...


class RunDirectory:
    """`config.toml`, `metrics.jsonl`, `checkpoints/step-N/` and, at the end, `done.json`.

    Of several processes only the first writes.
    """

    def __init__(self, path: Path, config: FrozenModel):
        self.path = path
        self.config = config
        path.mkdir(parents=True, exist_ok=True)
        with distributed.first_alone():
            self._check_config()

    def _check_config(self) -> None:
        written = self.path / "config.toml"
        fresh = self.path / "config.toml.new"
        write_resolved(self.config, fresh)
        if not written.exists():
            fresh.rename(written)
            return
        same = written.read_text() == fresh.read_text()
        fresh.unlink()
        if not same:
            raise ResumeError(
                f"asked to continue the run in {self.path}, but its config.toml differs from this "
                "one: give another output directory, or remove that one to start again"
            )

    # -- state ---------------------------------------------------------------------------------
    @property
    def done(self) -> dict[str, Any] | None:
        """What the finished run recorded, or None while it is not finished."""
        path = self.path / "done.json"
        return read_json(path) if path.exists() else None

    def finish(self, record: Mapping[str, Any]) -> None:
        if distributed.is_first():
            write_json(self.path / "done.json", record)
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        distributed.wait()

    def _checkpoints(self) -> list[tuple[int, Path]]:
        found = (self.path / "checkpoints").glob("step-*")
        return sorted((int(p.name.removeprefix("step-")), p) for p in found if p.name[5:].isdigit())

    def save(self, step: int, learners: Mapping[str, Resumable], extra: Mapping[str, Any]) -> None:
        """Write a whole checkpoint beside the others, then drop the oldest.

        Of sharded weights each process writes its part.
        """
        final = self.path / "checkpoints" / f"step-{step}"
        temporary = final.with_name(f"partial-{step}")
        with distributed.first_alone():
            if distributed.is_first():
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
        for name, learner in learners.items():
            if learner.sharded or distributed.is_first():
                save_file(learner.state(), temporary / _file_of(name, learner))
        distributed.wait()
        if distributed.is_first():
            self._complete(temporary, final, {"step": step, "extra": dict(extra)})
        distributed.wait()

    def _complete(self, temporary: Path, final: Path, record: Mapping[str, Any]) -> None:
        write_json(temporary / "state.json", record)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for _, old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def resume(self, learners: Mapping[str, Resumable]) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint: (steps done, its extra record), or (0, {}) for a new run."""
        checkpoints = self._checkpoints()
        if not checkpoints:
            self._cut_metrics(0)
            return 0, {}
        step, path = checkpoints[-1]
        try:
            for name, learner in learners.items():
                learner.load_state(load_file(path / _file_of(name, learner)))
            extra = json.loads((path / "state.json").read_text())["extra"]
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed from ({error}); remove it to go on"
            ) from error
        self._cut_metrics(step)
        return step, extra

    # -- metrics -------------------------------------------------------------------------------
    def log(self, record: Mapping[str, Any]) -> None:
        if not distributed.is_first():
            return
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _cut_metrics(self, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps will be made, and logged,
        again."""
        path = self.path / "metrics.jsonl"
        if path.exists() and distributed.is_first():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text("".join(line + "\n" for line in kept))


def _file_of(name: str, learner: Resumable) -> str:
    """What a learner's state is called; its parts can only be read by as many processes again."""
    if not learner.sharded:
        return f"{name}.safetensors"
    return f"{name}.{distributed.rank() + 1}-of-{distributed.num_processes()}.safetensors"


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")  # the line that the kill cut in two


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        json.dump(dict(record), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def train_steps(
    run: RunDirectory,
    learners: Mapping[str, Resumable],
    num_steps: int,
    step_function: StepFunction,
    checkpoint_every: int,
    title: str,
) -> None:
    """Make the steps that are left of `num_steps`, logging each and saving every so often."""
    keep_freed_memory()
    first, _ = run.resume(learners)
    with step_bar(title, num_steps, first) as advance:
        for step in range(first, num_steps):
            started = time.monotonic()
            metrics = dict(step_function(step))
            run.log({"step": step + 1, **metrics, "seconds": round(time.monotonic() - started, 3)})
            advance(metrics)
            if (step + 1) % checkpoint_every == 0 and step + 1 < num_steps:
                run.save(step + 1, learners, {})


@contextmanager
def step_bar(
    title: str, total: int, done: int = 0
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A progress bar with time left on stderr, with the last figures beside it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    console, hidden = Console(stderr=True), not distributed.is_first()
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task(title, total=total, completed=done, figures="")

        def advance(metrics: Mapping[str, float]) -> None:
            shown = "  ".join(f"{key} {value:.3g}" for key, value in list(metrics.items())[:4])
            progress.update(task, advance=1, figures=shown)

        yield advance


def finished(directory: Path) -> Path:
    """The directory of a stage that must be done before another can start. Raises ResumeError."""
    if not (directory / "done.json").exists():
        raise ResumeError(f"{directory} is not finished: make that stage first.")
    return directory


@contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """The same bar for work that calls back with (done, total)."""
    with step_bar(title, total) as advance:
        reached = 0

        def progress(done: int, _total: int) -> None:
            nonlocal reached
            for _ in range(done - reached):
                advance({})
            reached = done

        yield progress


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def generator(seed: int, *place: int) -> torch.Generator:
    """The random numbers of one point (a stage, a step): the same whenever it is asked for."""
    mixed = seed
    for part in place:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
    return torch.Generator().manual_seed(mixed)
