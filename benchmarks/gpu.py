"""The accelerator's comparison: random weights in the shapes of real models, bf16.

    python -m benchmarks --device cuda --short --json

Each section is a process of its own with a budget of time, and what it has measured is kept as it
is measured: a run that is stopped, or a section that fails, loses nothing of the others. With
`--device cpu --short` the same code runs on tiny shapes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nlakit.config import write_text_atomic

from .process import OFFLINE, ROOT
from .results import machine, rounded

LIMIT_S = 405
"""Of all sections together; the whole command stays within seven minutes."""
BUDGETS_S = {
    "gate": 35, "decode": 110, "training": 110, "extraction": 30, "trl": 60, "tests": 60,
}  # fmt: skip
"""In this order; what a section leaves over is the next one's."""


def main(device: str, as_json: bool, output: Path | None = None) -> int:
    """Measure, keep and print; returns the exit status."""
    if device != "cpu" and not torch.cuda.is_available():
        print(
            "There is no CUDA device here. Run this on a machine with one, leave out --device to "
            "measure this CPU, or give --device cpu --short to try the command on tiny shapes.",
            file=sys.stderr,
        )
        return 1
    path = output or ROOT / "runs" / "bench" / f"short-{device}.json"
    print(f"Writing to {path} as it goes, within {LIMIT_S} s.", file=sys.stderr)
    found = measure(device, path, BUDGETS_S, LIMIT_S)
    print(json.dumps(rounded(found)) if as_json else json.dumps(rounded(found), indent=1))
    failed = [name for name, facts in found["sections"].items() if "failed" in facts]
    return 1 if failed or not found["sections"].get("gate", {}).get("holds") else 0


def measure(
    device: str, path: Path, budgets: Mapping[str, float], limit_s: float
) -> dict[str, Any]:
    """All sections, each within its budget; the file has what is known at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu, tiny shapes"
    found: dict[str, Any] = {"device": name, "machine": machine(), "sections": {}}
    start, planned = time.perf_counter(), 0.0
    for section, budget in budgets.items():
        planned += budget
        spent = time.perf_counter() - start
        facts: dict[str, Any] = {}
        found["sections"][section] = facts
        command = [sys.executable, "-m", "benchmarks.gpu_sections", section, device]
        for more in lines_within(command, min(planned, limit_s) - spent):
            facts.update(more)
            keep(path, found)
    found["headline"] = headline(found["sections"])
    keep(path, found)
    return found


def lines_within(command: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """What a process prints, object by object; `stopped` or `failed` where it comes to no end."""
    stopped = threading.Event()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **OFFLINE},
        )

        def stop() -> None:
            stopped.set()
            process.kill()

        timer = threading.Timer(max(0.0, seconds), stop)
        timer.start()
        assert process.stdout is not None
        with process.stdout as lines:
            yield from (json.loads(line) for line in lines if line.startswith("{"))
        status = process.wait()
        timer.cancel()
        log.seek(0)
        if stopped.is_set():
            yield {"stopped": f"after {seconds:.0f} s, its budget"}
        elif status != 0:
            yield {"failed": log.read()[-1500:]}


def keep(path: Path, found: Mapping[str, Any]) -> None:
    """Write what is known."""
    write_text_atomic(path, json.dumps(rounded(dict(found)), indent=1, ensure_ascii=False) + "\n")


def headline(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the requirements name; None where one was not measured."""
    decode, training = sections.get("decode", {}), sections.get("training", {})
    ours = {rows: facts for rows, facts in decode.items() if rows.startswith("rows_")}
    theirs = decode.get("hf", {}).get("per_s")
    same = ours.get(f"rows_{decode.get('hf', {}).get('rows')}", {}).get("per_s")
    return {
        "explanations_per_s": {rows: facts["per_s"] for rows, facts in ours.items()},
        "share_of_roofline": {rows: facts["share_of_roofline"] for rows, facts in ours.items()},
        "times_hf": same / theirs if same and theirs else None,
        "step_seconds": {
            model: {kind: step["seconds"] for kind, step in facts.items() if kind != "peak_gib"}
            for model, facts in training.items()
            if isinstance(facts, dict)
        },
        "times_trl": {
            model: facts["seconds"] / training[model]["rl_trl"]["seconds"]
            for model, facts in sections.get("trl", {}).items()
            if isinstance(facts, dict) and "rl_trl" in training.get(model, {})
        },
    }
