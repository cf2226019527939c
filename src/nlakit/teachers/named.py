"""Teachers by the names that recipes and `nlakit label` give them."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from nlakit.errors import ConfigError

from .base import Teacher
from .cache import AnswerCache
from .chat import AnthropicApi, ChatApi, OpenAICompatibleApi
from .cost import Budget, Price
from .fake import FakeTeacher, last_words
from .huggingface import HuggingFaceTeacher
from .prompt import LABELS, Task
from .remote import RemoteTeacher
from .text import TextTeacher

CACHE_NAME = "answers.sqlite"
GROUP = "nlakit.teachers"
BATCH_DISCOUNT = 0.5
HERE = "hf"
REMOTE = ("anthropic", "openai")


def teacher_named(
    name: str,
    cache: Path,
    *,
    price: Price | None = None,
    budget: float | None = None,
    batch: bool = False,
    base_url: str | None = None,
    concurrency: int = 8,
    task: Task = LABELS,
) -> Teacher:
    """The teacher of a name: anthropic:MODEL, openai:MODEL, hf:DIRECTORY, text, fake, or a world's.

    A world of documents brings its teacher by the entry point `nlakit.teachers` of its package: a
    function or class that takes nothing and gives a `Teacher`.

    Args:
        cache: file that keeps every answer of a chat model, wherever it runs.
        price: without the discount of a batch, which is taken off here.
        budget: dollars that all answers in the cache may cost together.
        task: what the teacher is asked for.

    Raises:
        ConfigError: there is no such teacher, a budget without a price, or a world's teacher was
            asked for anything but labels.
    """
    vendor, _, model = name.partition(":")
    if vendor == HERE and model:
        return HuggingFaceTeacher(model, AnswerCache(cache), task=task)
    if vendor not in REMOTE:
        return _without_a_model(name, task)
    share = BATCH_DISCOUNT if batch else 1.0
    rates = price and Price(input=price.input * share, output=price.output * share)
    answers = AnswerCache(cache)
    spent = 0.0 if rates is None else rates.of(*answers.paid(name))
    return RemoteTeacher(
        _api(vendor, model, base_url, batch),
        answers,
        Budget(budget, rates, spent),
        concurrency=concurrency,
        batch=batch,
        task=task,
    )


def _without_a_model(name: str, task: Task) -> Teacher:
    if name == "fake":
        return FakeTeacher(last_words)
    if name == "text" and task is LABELS:
        return TextTeacher()
    worlds = {point.name: point for point in entry_points(group=GROUP)}
    if name not in (*worlds, "text"):
        known = ["anthropic:MODEL", "openai:MODEL", "hf:DIRECTORY", "text", "fake", *worlds]
        raise ConfigError(f"There is no teacher {name!r}. Give one of: {', '.join(known)}.")
    if task is not LABELS:
        raise ConfigError(
            f"The teacher {name!r} writes labels only. Ask a chat model: anthropic:MODEL, "
            "openai:MODEL or hf:DIRECTORY."
        )
    return worlds[name].load()()


def _api(vendor: str, model: str, base_url: str | None, batch: bool) -> ChatApi:
    if not model:
        raise ConfigError(f"The teacher {vendor!r} names no model. Give {vendor}:MODEL.")
    if vendor == "anthropic":
        return AnthropicApi(model, base_url)
    if batch:
        raise ConfigError("Batches are for anthropic teachers. Leave them out.")
    return OpenAICompatibleApi(model, base_url)
