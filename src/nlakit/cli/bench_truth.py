"""`nlakit bench-truth`: the storyworld benchmark for NLA methods, and its leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import TypeAdapter
from rich.console import Console

from nlakit.console import notices, tell
from nlakit.errors import InputError
from nlakit.evals.evaluation import PairReport
from nlakit.pair.pair import Pair
from nlakit.worlds.storyworld.leaderboard import (
    SEED,
    Submission,
    check_name,
    leaderboard,
    load_entry,
    ranked,
    read_submissions,
    submission_of,
    write_submission,
)
from nlakit.worlds.storyworld.report import evaluate

from .devices import AUTOMATIC, DeviceOptions
from .eval.report import summary
from .pairs import BUNDLED, PairOptions

SUBMISSIONS = TypeAdapter(list[Submission])


def bench_truth(
    *,
    name: str | None = None,
    documents: int = 2000,
    temperature: float = 0.0,
    output: Path | None = None,
    again: Annotated[bool, Parameter(negative=())] = False,
    render: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Measure an NLA method on the storyworld's fixed target, and compare methods.

    Target, seed and split are fixed: the target must have the very weights of the bundled one, and
    the mean is the bundled one.

    Parameters
    ----------
    name
        What the method is called in the leaderboard.
    documents
        Held-out documents to read, one position in each.
    temperature
        0 is greedy decoding.
    output
        File for the submission; by default NAME.json.
    again
        Measure again, and write over a file that is there.
    render
        Measure nothing; print the leaderboard of the submissions in this directory.
    json
        Print JSON.
    """
    if render is not None:
        if name is not None:
            raise InputError("Give --name to measure a pair, or --render to compare, not both.")
        _print_leaderboard(render, json)
        return
    if name is None:
        raise InputError("Give --name, what the method is called, or --render with a directory.")
    check_name(name)
    path = _free(output or Path(f"{name}.json"), again)
    entry = load_entry(name, pair.source(), devices.placement())
    report = _measure(entry, documents, temperature)
    submission = submission_of(name, report)
    write_submission(submission, path)
    if json:
        sys.stdout.write(submission.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))
        tell(f"Written to {path}")


def _print_leaderboard(directory: Path, json: bool) -> None:
    submissions = read_submissions(directory)
    if json:
        found = SUBMISSIONS.dump_json(ranked(submissions), indent=2)
        sys.stdout.write(found.decode("utf-8") + "\n")
    else:
        sys.stdout.write(leaderboard(submissions))


def _free(path: Path, again: bool) -> Path:
    if path.is_dir():
        raise InputError(f"--output {path} is a directory. Give a file.")
    if path.exists() and not again:
        raise InputError(f"{path} is there already. Give --again to write over it, or --output.")
    return path


def _measure(pair: Pair, documents: int, temperature: float) -> PairReport:
    with notices().status("starting") as status:
        return evaluate(
            pair,
            documents=documents,
            seed=SEED,
            temperature=temperature,
            progress=lambda stage: status.update(f"{stage} …"),
        )
