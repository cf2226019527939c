"""A training run on disk: resolved config, metrics, checkpoints that a killed run resumes from.

Knows nothing of what is trained. Random numbers everywhere in `train` are functions of (seed,
step),
so a checkpoint holds weights, optimiser moments and the number of steps done, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlakit.config import FrozenModel, write_resolved, write_text_atomic
from nlakit.data.locks import locked, remove_temporaries
from nlakit.errors import CheckpointError, ResumeError
from nlakit.files import read_json_object
from nlakit.models.tensor_files import write_tensors

from . import distributed
from .memory import keep_freed_memory
from .progress import Example, step_progress

StepFunction = Callable[[int], Mapping[str, float]]
KEPT_CHECKPOINTS = 2
COUNTS_NAME, ABSTAINED_NAME = "counts.json", "abstained.json"
"""What grounding kept and dropped, and abstention kept and left out, for people."""


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
        if self.done is None:
            for directory in (self.path, self.path / "best"):
                if directory.is_dir():
                    remove_temporaries(directory)
        written = self.path / "config.toml"
        if not written.exists():
            write_resolved(self.config, written)
            return
        other = _differences(written, self.config)
        if other:
            raise ResumeError(
                f"Asked to continue the run in {self.path}, but its config.toml differs from this "
                f"one ({'; '.join(other)}). Give another output directory, or remove that one to "
                "start again."
            )

    # -- state ---------------------------------------------------------------------------------
    @property
    def done(self) -> dict[str, Any] | None:
        """What the finished run recorded, or None while it is not finished."""
        path = self.path / "done.json"
        return read_json(path) if path.exists() else None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Record that the run is finished; its checkpoints go."""
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
                write_tensors(temporary / _file_of(name, learner), learner.state())
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
            extra = read_json_object(path / "state.json", CheckpointError)["extra"]
        except (OSError, SafetensorError, KeyError, RuntimeError, CheckpointError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed from ({error}). Remove it to go on from the one before."
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
        """What was logged, a record a step."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _cut_metrics(self, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps will be made, and logged,
        again."""
        path = self.path / "metrics.jsonl"
        if path.exists() and distributed.is_first():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text_atomic(path, "".join(line + "\n" for line in kept))


def _file_of(name: str, learner: Resumable) -> str:
    """What a learner's state is called; its parts can only be read by as many processes again."""
    if not learner.sharded:
        return f"{name}.safetensors"
    return f"{name}.{distributed.rank() + 1}-of-{distributed.num_processes()}.safetensors"


def _differences(written: Path, config: FrozenModel) -> list[str]:
    """Keys in which a config on disk differs, with both values; compared as what they say, so that
    a key that is new and has its default makes no difference."""
    try:
        found = type(config).model_validate(tomllib.loads(written.read_text(encoding="utf-8")))
    except (OSError, ValueError, pydantic.ValidationError) as error:
        return [f"it cannot be read as one: {error}"]
    before, now = _flat(found.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _step_of(line: str) -> float:
    """Infinite for the line that a kill has cut in two, and for what is no record at all."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return float("inf")
    return step if isinstance(step, int) else float("inf")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    write_text_atomic(path, json.dumps(dict(record), indent=2) + "\n")


def train_steps(
    run: RunDirectory,
    learners: Mapping[str, Resumable],
    num_steps: int,
    step_function: StepFunction,
    checkpoint_every: int,
    title: str,
    example: Example | None = None,
) -> None:
    """Make the steps that are left of `num_steps`, logging each and saving every so often.

    Args:
        example: writes an explanation as the weights are, to be shown now and then. Not asked where
            several processes train, which would have to agree on when.

    Raises:
        ResumeError: another process trains in this directory.
        CheckpointError: what is to be resumed from cannot be read.
    """
    keep_freed_memory()
    with locked(run.path) if distributed.is_first() else nullcontext():
        _train_locked(run, learners, num_steps, step_function, checkpoint_every, title, example)


def _train_locked(
    run: RunDirectory,
    learners: Mapping[str, Resumable],
    num_steps: int,
    step_function: StepFunction,
    checkpoint_every: int,
    title: str,
    example: Example | None,
) -> None:
    first, _ = run.resume(learners)
    alone = distributed.num_processes() == 1
    with step_progress(title, num_steps, first, example if alone else None) as advance:
        for step in range(first, num_steps):
            started = time.monotonic()
            metrics = dict(step_function(step))
            run.log({"step": step + 1, **metrics, "seconds": round(time.monotonic() - started, 3)})
            advance(metrics)
            if (step + 1) % checkpoint_every == 0 and step + 1 < num_steps:
                run.save(step + 1, learners, {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of ours. Raises `CheckpointError` where it is no such thing."""
    return read_json_object(path, CheckpointError)


def generator(seed: int, *place: int) -> torch.Generator:
    """The random numbers of one point (a stage, a step): the same whenever it is asked for."""
    mixed = seed
    for part in place:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
    return torch.Generator().manual_seed(mixed)
