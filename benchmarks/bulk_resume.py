"""Many vectors explained by `nlakit describe`, killed once: memory as it goes, and every row once.

    python -m benchmarks.bulk_resume DIRECTORY --nla NLA --activations SHARDS [--vectors 100000]

The vectors are the activations of a directory of shards (as a training run leaves it), repeated in
turn with noise from a seed. The child is killed with SIGKILL at `--kill-at` rows and started again.
A run that was itself interrupted goes on, so it may be had in pieces. Prints JSON; Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from nlakit.data.bulk import VectorSource

NOISE = 0.05
"""Standard deviation of the noise, in units of that of all numbers of the activations."""
CHUNK_ROWS = 10_000
POLL_S = 0.1
EVENTS_NAME = "events.jsonl"


class Memory(NamedTuple):
    """Of a process, in MiB."""

    held: float
    peak: float


def main() -> None:
    """Run to the end and print the figures."""
    options = _parse()
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    vectors = directory / "vectors.npy"
    if not vectors.exists():
        write_vectors(vectors, VectorSource(options.activations), options.vectors, options.seed)
    output, events = directory / "explanations", Events(directory / EVENTS_NAME)
    while not (output / "manifest.json").exists():
        words = ["describe", vectors, "--nla", options.nla, "--output", output]
        words += ["--temperature", 1, "--max-new-tokens", options.max_new_tokens]
        words += ["--shard-rows", options.shard_rows]
        kill_at = None if events.named("killed") else options.kill_at
        watch([str(word) for word in words], output, options, kill_at, events)
    print(json.dumps(figures(output, options, events), indent=2))


def write_vectors(path: Path, source: VectorSource, count: int, seed: int) -> None:
    """An .npy of `count` vectors, the source's over and over, each with noise of its own."""
    known = source.read(range(source.num_rows)).numpy()
    rng = np.random.default_rng(seed)
    made = np.lib.format.open_memmap(
        path.with_suffix(".part"), "w+", np.float32, (count, source.d_model)
    )
    for start in range(0, count, CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, count)) % len(known)
        noise = rng.standard_normal((len(rows), source.d_model), dtype=np.float32)
        made[start : start + len(rows)] = known[rows] + NOISE * known.std() * noise
    made.flush()
    path.with_suffix(".part").rename(path)


class Events:
    """What has happened to a run, kept on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, rows: int, **facts: float) -> None:
        """Note that something happened once `rows` rows were written."""
        with self.path.open("a") as file:
            file.write(json.dumps({"event": name, "rows": rows, **facts}) + "\n")

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of a name, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]


def watch(
    words: list[str], output: Path, options: argparse.Namespace, kill_at: int | None, events: Events
) -> None:
    """Run `nlakit` in a child, noting its memory at every `--every` rows; perhaps kill it."""

    def rows_written() -> int:
        return len(list(output.glob("explanations-*.parquet"))) * options.shard_rows

    started, first = time.monotonic(), rows_written()
    events.add("started", first)
    child = subprocess.Popen([sys.executable, "-m", "nlakit", *words], stdout=subprocess.DEVNULL)
    due = first // options.every * options.every + options.every
    while child.poll() is None:
        rows, memory = rows_written(), memory_of(child.pid)
        if rows >= due and memory is not None:
            seconds = round(time.monotonic() - started, 1)
            facts = {"own_rows": rows - first, "own_seconds": seconds, **memory._asdict()}
            events.add("memory", rows, **facts)
            due += options.every
        if kill_at is not None and rows >= kill_at:
            child.kill()
            child.wait()
            events.add("killed", rows_written())
            return
        time.sleep(POLL_S)
    if child.returncode:
        raise SystemExit(f"nlakit describe ended with status {child.returncode}")


def memory_of(pid: int) -> Memory | None:
    """None once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    if "VmRSS" not in kib:
        return None
    return Memory(round(int(kib["VmRSS"]) / 1024, 1), round(int(kib["VmHWM"]) / 1024, 1))


def figures(output: Path, options: argparse.Namespace, events: Events) -> dict[str, Any]:
    """What was measured, and whether each vector has one row, in its place."""
    paths = sorted(output.glob("explanations-*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path)["row"].to_pylist()]
    return {
        "vectors": options.vectors,
        "max_new_tokens": options.max_new_tokens,
        "rows": len(rows),
        "distinct_rows": len(set(rows)),
        "in_order": rows == list(range(options.vectors)),
        "started_at_rows": [event["rows"] for event in events.named("started")],
        "killed_at_rows": [event["rows"] for event in events.named("killed")],
        "memory_mib": [
            {name: value for name, value in event.items() if name != "event"}
            for event in events.named("memory")
        ],
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--nla", required=True)
    parser.add_argument("--activations", required=True)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--kill-at", type=int, default=25_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--shard-rows", type=int, default=1000)
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
