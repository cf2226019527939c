"""`nlakit eval private-code`: what FVE is left when explanations are paraphrased."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nlakit.console import notice
from nlakit.evals.private_code import BY_TEACHER, Change, asked, explanation_places
from nlakit.evals.private_code import private_code as measure
from nlakit.evals.rows import read_sample
from nlakit.teachers.base import Teacher
from nlakit.teachers.cost import Price
from nlakit.teachers.named import CACHE_NAME, teacher_named
from nlakit.teachers.prompt import Task
from nlakit.teachers.remote import RemoteTeacher
from nlakit.teachers.rewriting import PARAPHRASE, SUMMARY, translation

from ..devices import AUTOMATIC, DeviceOptions
from ..pairs import BUNDLED, PairOptions
from .common import (
    STORYWORLD_DOCUMENTS,
    CorpusOptions,
    Documents,
    Json,
    Output,
    Seed,
    Temperature,
    check_output,
    give,
    measuring,
)


def private_code(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    teacher: str | None = None,
    language: str = "French",
    budget: float | None = None,
    price: str | None = None,
    cache: Path | None = None,
    base_url: str | None = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Change the explanations without changing what they mean, and see what FVE is left.

    Parameters
    ----------
    teacher
        A chat model that paraphrases each of them, translates it, and sums it up in one
        sentence: anthropic:MODEL, openai:MODEL or hf:DIRECTORY. Without one these are left out.
    language
        The second language.
    budget
        Dollars that all answers in the cache may cost together; needs --price.
    price
        Dollars per million tokens read and written, such as 3,15.
    cache
        File that keeps every answer; by default answers.sqlite in OUTPUT, or here.
    base_url
        Address of the teacher's server, such as http://localhost:8000/v1.
    """
    check_output(output)
    pair.check()

    def teacher_for(task: Task) -> Teacher:
        assert teacher is not None
        return teacher_named(
            teacher,
            cache or (output or Path()) / CACHE_NAME,
            price=None if price is None else Price.parse(price),
            budget=budget,
            base_url=base_url,
            task=task,
        )

    with measuring():
        eval_set = on.eval_set(pair)
        sample = read_sample(
            pair.load_for_evaluation(eval_set, devices), eval_set, documents, seed, temperature
        )
        extra = _by_teacher(teacher_for, language, sample.reading.texts) if teacher else {}
        section = measure(sample, extra)
    give(section, output, json)


def _by_teacher(
    teacher_for: Callable[[Task], Teacher], language: str, texts: list[str]
) -> dict[str, Change]:
    """One teacher after the other: a model on this machine is then in memory once."""
    tasks = {
        BY_TEACHER: PARAPHRASE,
        f"in {language}": translation(language),
        "summary by a teacher": SUMMARY,
    }
    changes: dict[str, Change] = {}
    for name, task in tasks.items():
        teacher = teacher_for(task)
        if isinstance(teacher, RemoteTeacher):
            said = f"{name}: {teacher.announcement(explanation_places(texts))}"
            notice(said)
        changes[name] = asked(teacher, texts)
    return changes
