"""`nlakit label`: asks a teacher for the explanation of every row of a set of activations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.data.labels import Place, Teacher, places_of, write_labels
from nlakit.data.shards import ShardReader
from nlakit.errors import ConfigError
from nlakit.teachers.cache import AnswerCache
from nlakit.teachers.chat import AnthropicApi, ChatApi, OpenAICompatibleApi
from nlakit.teachers.cost import Budget, Price
from nlakit.teachers.huggingface import HuggingFaceTeacher
from nlakit.teachers.remote import RemoteTeacher
from nlakit.teachers.storyworld import StoryworldTeacher
from nlakit.train.run import step_bar

CACHE_NAME = "answers.sqlite"
BATCH_DISCOUNT = 0.5


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
    estimate: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Ask a teacher for the explanation of every row; a stopped run pays for nothing twice.

    Parameters
    ----------
    activations
        A directory that `nlakit extract` wrote.
    teacher
        anthropic:MODEL, openai:MODEL (any server that speaks its chat completions), hf:DIRECTORY
        or storyworld. Keys are read from ANTHROPIC_API_KEY and OPENAI_API_KEY.
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
    estimate
        Print what the labels would cost and ask nothing.
    """
    console = Console(stderr=True)
    reader = ShardReader(activations)
    vendor, _, model = teacher.partition(":")
    if vendor not in ("anthropic", "openai"):
        _run(activations, _local_teacher(vendor, model, teacher), output, len(reader))
        return
    rates = _price(price, batch)
    answers = AnswerCache(cache or output / CACHE_NAME)
    spent = 0.0 if rates is None else rates.of(*answers.paid(teacher))
    asked = RemoteTeacher(
        _api(vendor, model, base_url, batch),
        answers,
        Budget(budget, rates, spent),
        concurrency=concurrency,
        batch=batch,
    )
    _announce(console, asked, [place for _, rows in reader for place in places_of(rows)])
    if not estimate:
        _run(activations, asked, output, len(reader))


def _price(text: str | None, batch: bool) -> Price | None:
    if text is None:
        return None
    price = Price.parse(text)
    share = BATCH_DISCOUNT if batch else 1.0
    return Price(input=price.input * share, output=price.output * share)


def _api(vendor: str, model: str, base_url: str | None, batch: bool) -> ChatApi:
    if not model:
        raise ConfigError(f"--teacher {vendor!r} names no model. Give {vendor}:MODEL.")
    if vendor == "anthropic":
        return AnthropicApi(model, base_url)
    if batch:
        raise ConfigError("--batch is for anthropic teachers. Leave it out.")
    return OpenAICompatibleApi(model, base_url)


def _local_teacher(vendor: str, model: str, asked: str) -> Teacher:
    if vendor == "hf" and model:
        return HuggingFaceTeacher(model)
    if asked == "storyworld":
        return StoryworldTeacher()
    raise ConfigError(
        f"--teacher {asked!r} is not known. Give anthropic:MODEL, openai:MODEL, hf:DIRECTORY or "
        "storyworld."
    )


def _announce(console: Console, teacher: RemoteTeacher, places: list[Place]) -> None:
    found = teacher.estimate(places)
    cost = "no --price given" if found.dollars is None else f"about ${found.dollars:.2f}"
    console.print(
        f"{found.questions} questions to ask of {len(places)} rows: {found.input_tokens:,} tokens "
        f"to read, {found.output_tokens:,} to write, {cost}; paid so far "
        f"${teacher.budget.spent:.2f}.",
        markup=False,
        highlight=False,
    )


def _run(activations: Path, teacher: Teacher, output: Path, num_rows: int) -> None:
    with step_bar("labels", num_rows) as advance:
        reached = 0

        def progress(done: int, total: int) -> None:
            nonlocal reached
            for _ in range(done - reached):
                advance({})
            reached = done

        found = write_labels(activations, teacher, output, progress)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.refusals.items()))
    Console(stderr=True).print(
        f"{found.num_rows - found.num_refused} labels of {found.num_rows} rows"
        + (f"; without one: {reasons}." if reasons else "."),
        markup=False,
    )
    print(output)
