"""`nlakit label`: asks a teacher for the explanation of every row of a set of activations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.console import notice, tell
from nlakit.data.labels import Place, Teacher, places_of, write_labels
from nlakit.data.shards import ShardReader
from nlakit.teachers.cache import IN_MEMORY
from nlakit.teachers.cost import Estimate, Price
from nlakit.teachers.named import CACHE_NAME, paid_of, teacher_named
from nlakit.teachers.prompt import BRIEF, LABELS
from nlakit.train.progress import count_progress

from .results import Json, write_json


def label(
    activations: Path,
    /,
    *,
    teacher: str,
    output: Path,
    budget: float | None = None,
    price: str | None = None,
    cache: Path | None = None,
    base_url: str | None = None,
    concurrency: int = 8,
    batch: Annotated[bool, Parameter(negative=())] = False,
    brief: Annotated[bool, Parameter(negative=())] = False,
    estimate: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Ask a teacher for the explanation of every row; a stopped run pays for nothing twice.

    Parameters
    ----------
    activations
        A directory that `nlakit extract` wrote.
    teacher
        anthropic:MODEL, openai:MODEL (any server that speaks its chat completions), hf:DIRECTORY,
        text (by rule from the text and the target's next tokens: see `extract --next-tokens`),
        storyworld, or fake for a dry run; several with a plus, such as hf:DIRECTORY+text, write
        each label together. Keys are read from ANTHROPIC_API_KEY and OPENAI_API_KEY.
    output
        Directory for the labels.
    budget
        Dollars that all answers in the cache may cost together; needs --price.
    price
        Dollars per million tokens read and written, such as 3,15.
    cache
        File that keeps every answer, for this run and others; by default answers.sqlite in OUTPUT.
    base_url
        Address of the server, such as http://localhost:8000/v1.
    concurrency
        Questions in flight at once.
    batch
        Ask through Anthropic's message batches: half the price, answers within a day.
    brief
        Ask chat models for one sentence on what the text is about: for those too small to write
        several features in tags.
    estimate
        Print what the labels would cost; ask nothing and write nothing.
    """
    reader, kept = ShardReader(activations), cache or output / CACHE_NAME
    asked = teacher_named(
        teacher,
        IN_MEMORY if estimate and not kept.exists() else kept,
        price=None if price is None else Price.parse(price),
        budget=budget,
        batch=batch,
        base_url=base_url,
        concurrency=concurrency,
        task=BRIEF if brief else LABELS,
    )
    if estimate:
        _give_estimate(asked, reader, json)
        return
    paid = paid_of(asked)
    if paid is not None:
        notice(paid.announcement(_places(reader)))
    with count_progress("labels", len(reader)) as progress:
        found = write_labels(activations, asked, output, progress)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.refusals.items()))
    notice(
        f"{found.num_rows - found.num_refused} labels of {found.num_rows} rows"
        + (f"; without one: {reasons}." if reasons else ".")
    )
    if json:
        counts = {"num_rows": found.num_rows, "num_refused": found.num_refused}
        write_json({"output": str(output), **counts, "refusals": dict(found.refusals)})
    else:
        print(output)


def _give_estimate(teacher: Teacher, reader: ShardReader, json: bool) -> None:
    paid = paid_of(teacher)
    if paid is not None:
        places = _places(reader)
        said, taken = paid.announcement(places), paid.estimate(places)
    else:
        said = f"{len(reader):,} labels by {teacher.name}, for which nobody is paid."
        taken = Estimate(questions=0, input_tokens=0, output_tokens=0, dollars=0.0)
    if json:
        write_json({"num_rows": len(reader), **taken.model_dump()})
    else:
        tell(said)


def _places(reader: ShardReader) -> list[Place]:
    return [place for _, rows in reader for place in places_of(rows)]
