"""The other end of `process.Side`: prepares a side, and runs it as often as it is told.

    python -m benchmarks.worker MODULE.NAME [CORE]

Reads one JSON object a line and answers with one. What libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from .measure import Task, as_json, timed


def main(side: str, core: str | None = None) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, name = side.split(".")
    factory: Callable[..., Task] = importlib.import_module(f".{module}", __package__).SIDES[name]
    task: Task | None = None
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "prepare":
            task = factory(**message["options"])
            task.warm()
            # Not before: sides that are started together get ready on all cores.
            if core is not None:
                os.sched_setaffinity(0, {int(core)})
            # Both ends read the same monotonic clock.
            answer: dict[str, Any] = {"prepared_at": time.perf_counter(), "flops": task.flops}
        elif message["do"] == "gemm":
            answer = {"flops": _gemm_flops(message["dtype"])}
        else:
            assert task is not None, "prepare comes first"
            answer = as_json(timed(task.run))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _gemm_flops(dtype: str) -> float:
    from .flops import gemm_flops

    return gemm_flops(dtype=dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
