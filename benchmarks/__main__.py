"""python -m benchmarks                    everything, into benchmarks/results (about 45 minutes)
    python -m benchmarks --only NAME        one section (--list names them), again
    python -m benchmarks --quick --json     the named figures as one JSON object, within 4 minutes
    python -m benchmarks --device cuda --short --json    an accelerator's figures, within 7 minutes

A full run that was killed goes on where it stopped, as long as the code and the machine are the
same; --again measures everything anew. Other work on the machine spoils the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import suite
from .process import ROOT, SideFailed
from .results import Store, fingerprint, path_of, processor_kind, rounded
from .specs import ON_DISK

QUICK_MODELS = ("S", "V")
CHECKPOINTS_S = 60
"""About how long making all checkpoints takes; they are kept."""


class NotEqual(RuntimeError):
    """The gate found a difference: nothing is timed."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 1 where something was not equal or a side failed."""
    options = parse(arguments)
    if options.list:
        print("\n".join(suite.SECTIONS))
        return 0
    if options.short or options.device != "cpu":
        from .gpu import main as on_accelerator

        return on_accelerator(options.device, options.json)
    try:
        found = quick() if options.quick else full(options.only, options.again)
    except (NotEqual, SideFailed, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    show(found, options.json)
    return 0 if found["equal"] else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the named figures only")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--only", choices=suite.SECTIONS, metavar="NAME", help="one section")
    parser.add_argument("--again", action="store_true", help="also what is up to date")
    parser.add_argument("--list", action="store_true", help="name the sections")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--short",
        action="store_true",
        help="the accelerator's comparison, which is all that there is on cuda; on a CPU it runs "
        "tiny shapes, to try the command",
    )
    return parser.parse_args(arguments)


def quick() -> suite.Facts:
    """The named figures and their detail; nothing is written."""
    start, sections = time.perf_counter(), {}
    names = [name for name, section in suite.SECTIONS.items() if section.quick]
    with progress_bar() as progress:
        task = progress.add_task("checkpoints", total=_seconds(names))
        make_checkpoints(QUICK_MODELS)
        for name in names:
            progress.update(task, description=name)
            section_start = time.perf_counter()
            facts = suite.SECTIONS[name].measure(suite.QUICK)
            sections[name] = {**facts, "seconds": time.perf_counter() - section_start}
            progress.advance(task, suite.SECTIONS[name].seconds)
            if name == "gate" and not sections[name]["equal"]:
                break
    detail = {**sections, "seconds": time.perf_counter() - start}
    return {**suite.headline(sections), "detail": detail}


def full(only: str | None, again: bool) -> suite.Facts:
    """Every section that is not up to date, each kept as it ends.

    Raises:
        NotEqual: the gate failed, now or when it was last run on this code.
    """
    store, current = Store(path_of(processor_kind())), fingerprint()
    wanted = [only] if only else list(suite.SECTIONS)
    due = [name for name in wanted if only or again or not store.is_current(name, current)]
    passed = store.is_current("gate", current) and store.sections["gate"]["equal"]
    if "gate" not in due and not passed:
        due.insert(0, "gate")
    with progress_bar() as progress:
        task = progress.add_task("checkpoints", total=CHECKPOINTS_S + _seconds(due))
        make_checkpoints(ON_DISK)
        progress.advance(task, CHECKPOINTS_S)
        for name in due:
            progress.update(task, description=name)
            start = time.perf_counter()
            facts = suite.SECTIONS[name].measure(suite.FULL)
            store.put(name, {**facts, "seconds": time.perf_counter() - start}, current)
            progress.advance(task, suite.SECTIONS[name].seconds)
            if not store.sections["gate"]["equal"]:
                raise NotEqual(f"The gate failed: {json.dumps(store.sections['gate'])}")
    return {**suite.headline(store.sections), "detail": store.sections}


def make_checkpoints(names: Sequence[str]) -> None:
    """In a process of their own: this one stays small."""
    command = [sys.executable, "-m", "benchmarks.checkpoints", *names]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def progress_bar() -> Progress:
    """On stderr, with the time left."""
    columns = (
        TextColumn("{task.description:16}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def show(found: suite.Facts, as_json: bool) -> None:
    """One JSON object, or the named figures as lines."""
    if as_json:
        print(json.dumps(rounded(found)))
        return
    for name in suite.HEADLINE:
        value = found[name]
        print(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


def _seconds(names: Sequence[str]) -> float:
    return sum(suite.SECTIONS[name].seconds for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
