"""`nlakit bench-truth`: the storyworld benchmark for NLA methods, and its leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import TypeAdapter
from rich.console import Console

from nlakit.errors import InputError
from nlakit.evals.leaderboard import (
    SEED,
    Entry,
    Submission,
    check_name,
    entry_of,
    leaderboard,
    load_entry,
    ranked,
    read_submissions,
    submission_of,
    write_submission,
)
from nlakit.evals.pair import Pair
from nlakit.pair.load import find_pair
from nlakit.worlds.storyworld.report import StoryworldReport, evaluate

from .eval import summary

SUBMISSIONS = TypeAdapter(list[Submission])


def bench_truth(
    *,
    name: str | None = None,
    nla: str | None = None,
    av: str | None = None,
    ar: str | None = None,
    target: str | None = None,
    documents: int = 2000,
    temperature: float = 0.0,
    output: Path | None = None,
    again: Annotated[bool, Parameter(negative=())] = False,
    render: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure an NLA method on the storyworld's fixed target, and compare methods.

    Target, seed and split are fixed: the pair must have been trained on the bundled target.

    Parameters
    ----------
    name
        What the method is called in the leaderboard.
    nla
        The pair, as for `eval storyworld`; by default the bundled one.
    av
        Instead of --nla, the verbalizer's directory or name on the hub; with --ar and --target.
    ar
        The reconstructor's.
    target
        The target's. Its weights must be those of the bundled target.
    documents
        Held-out documents to read, one place in each.
    temperature
        0 writes the likeliest words.
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
    pair = load_entry(name, _entry(nla, av, ar, target))
    report = _measure(pair, documents, temperature)
    submission = submission_of(name, report)
    write_submission(submission, path)
    if json:
        sys.stdout.write(submission.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))
        Console().print(f"Written to {path}", markup=False, highlight=False, soft_wrap=True)


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


def _entry(nla: str | None, av: str | None, ar: str | None, target: str | None) -> Entry:
    if av is None and ar is None and target is None:
        return entry_of(nla)
    if nla is not None or av is None or ar is None or target is None:
        raise InputError("Give either --nla or all of --av, --ar and --target.")
    return Entry(find_pair(av, ar, target))


def _measure(pair: Pair, documents: int, temperature: float) -> StoryworldReport:
    with Console(stderr=True).status("starting") as status:
        return evaluate(
            pair,
            documents=documents,
            seed=SEED,
            temperature=temperature,
            progress=lambda stage: status.update(f"{stage} …"),
        )
