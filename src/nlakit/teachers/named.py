"""Teachers by the names that recipes and `nlakit label` give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from nlakit.errors import ConfigError

from .base import Teacher
from .cache import AnswerCache
from .chat import AnthropicApi, ChatApi, OpenAICompatibleApi
from .cost import Budget, Price
from .fake import FakeTeacher, last_words
from .huggingface import HuggingFaceTeacher
from .joined import JoinedTeacher
from .prompt import LABELLING, LABELS, Task
from .remote import RemoteTeacher
from .text import TextTeacher

CACHE_NAME = "answers.sqlite"
GROUP = "nlakit.teachers"
BATCH_DISCOUNT = 0.5
HERE = "hf"
REMOTE = ("anthropic", "openai")
TEXT = "text"
_JOINT = re.compile(rf"\+(?=(?:{'|'.join((*REMOTE, HERE))}):|(?:{TEXT}|fake)(?:\+|$))")
"""A plus before a teacher's name: a directory may have one in its own."""


def names_of(name: str) -> list[str]:
    """Of "hf:DIRECTORY+text" both names; of one teacher's its own."""
    return _JOINT.split(name)


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
    shares: Mapping[str, float] | None = None,
) -> Teacher:
    """The teacher of a name: anthropic:MODEL, openai:MODEL, hf:DIRECTORY, text, fake, or a world's.

    Several, with a plus between them ("hf:DIRECTORY+text"), write one label together, a paragraph
    or more each. A world of documents brings its teacher by the entry point `nlakit.teachers` of
    its package: a function or class that takes nothing and gives a `Teacher`.

    Args:
        cache: file that keeps every answer of a chat model, wherever it runs.
        price: without the discount of a batch, which is taken off here.
        budget: dollars that all answers in the cache may cost together.
        task: what the teacher is asked for; "text" and worlds' teachers write labels whatever kind
            of labels it asks for.
        shares: as `TextTeacher` takes them.

    Raises:
        ConfigError: there is no such teacher, a budget without a price, several teachers on
            servers, or one without a model was asked for anything but labels.
    """
    names = names_of(name)
    if names[1:]:
        _check_one_is_paid(name, names)
        made = [
            teacher_named(
                each, cache, price=price, budget=budget, batch=batch, base_url=base_url,
                concurrency=concurrency, task=task, shares=shares,
            )
            for each in names
        ]  # fmt: skip
        return JoinedTeacher(made)
    vendor, _, model = name.partition(":")
    if vendor == HERE and model:
        return HuggingFaceTeacher(model, AnswerCache(cache), task=task)
    if vendor not in REMOTE:
        return _without_a_model(name, task, shares)
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


def paid_of(teacher: Teacher) -> RemoteTeacher | None:
    """Who of a teacher is on a server, and has to be told about before it is asked."""
    parts = teacher.teachers if isinstance(teacher, JoinedTeacher) else (teacher,)
    return next((each for each in parts if isinstance(each, RemoteTeacher)), None)


def _check_one_is_paid(name: str, names: list[str]) -> None:
    """One budget, one price and one address serve one teacher on a server."""
    remote = [each for each in names if each.partition(":")[0] in REMOTE]
    if remote[1:]:
        raise ConfigError(
            f"The teacher {name!r}: {len(remote)} of its teachers are on servers, and one may be. "
            "Label with one of them, or join it with hf:DIRECTORY or text."
        )


def _without_a_model(name: str, task: Task, shares: Mapping[str, float] | None) -> Teacher:
    if name == "fake":
        return FakeTeacher(last_words)
    if name == TEXT and task in LABELLING:
        return TextTeacher(shares=shares)
    worlds = {point.name: point for point in entry_points(group=GROUP)}
    if name not in (*worlds, TEXT):
        known = ["anthropic:MODEL", "openai:MODEL", "hf:DIRECTORY", "text", "fake", *worlds]
        raise ConfigError(f"There is no teacher {name!r}. Give one of: {', '.join(known)}.")
    if task not in LABELLING:
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
