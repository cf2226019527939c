"""`nlakit eval autointerp`: whether explanations of latents say when the latents are active."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.config import write_text_atomic
from nlakit.errors import InputError
from nlakit.sae.autointerp import (
    AutointerpReport,
    FactJudge,
    Judge,
    TeacherJudge,
    explain_latents,
    score_latents,
)
from nlakit.sae.dashboard import Activity, read_activity
from nlakit.sae.store import STORE_NAME, DashboardStore
from nlakit.teachers.base import Teacher
from nlakit.teachers.cost import Price
from nlakit.teachers.latents import DETECT, EXPLAIN, FUZZ
from nlakit.teachers.named import CACHE_NAME, teacher_named
from nlakit.teachers.prompt import Task
from nlakit.worlds.storyworld.sae import CORPUS_NAME, best_facts

from ..devices import AUTOMATIC, DeviceOptions
from ..saes import find_sae, load_sae, target_of, texts_of
from .sae import shown

KNOWN_FACTS = "known facts"
SHOWN_LATENTS = 10


def autointerp(
    *,
    sae: str,
    corpus: str = CORPUS_NAME,
    documents: int = 600,
    seed: int = 90_005,
    max_tokens: int = 256,
    latents: int | None = None,
    latent: Annotated[list[int] | None, Parameter(negative=())] = None,
    per_class: int = 20,
    teacher: str | None = None,
    budget: float | None = None,
    price: str | None = None,
    cache: Path | None = None,
    base_url: str | None = None,
    label: Annotated[bool, Parameter(negative=())] = False,
    target: str | None = None,
    devices: DeviceOptions = AUTOMATIC,
    output: Annotated[Path | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Explain latents, and score the explanations by detection and fuzzing.

    Half of the documents explain, the other half scores. Without a teacher the storyworld's known
    facts do both, and nobody is asked.

    Parameters
    ----------
    sae
        Directory of an autoencoder, or the name of one that was trained here.
    corpus
        storyworld, or a corpus as `nlakit extract` takes it.
    documents
        Held-out documents.
    seed
        Decides which, in the storyworld.
    max_tokens
        Of each document of a corpus.
    latents
        Explain so many latents, evenly over the dictionary; by default all.
    latent
        Explain this latent; may be given several times.
    per_class
        Contexts in which a latent is active, and as many in which it is not.
    teacher
        A chat model that explains and judges: anthropic:MODEL, openai:MODEL or hf:DIRECTORY.
    budget
        Dollars that all answers in the cache may cost together; needs --price.
    price
        Dollars per million tokens read and written, such as 3,15.
    cache
        File that keeps every answer; by default answers.sqlite here.
    base_url
        Address of the teacher's server, such as http://localhost:8000/v1.
    label
        Write the teacher's explanations into the dashboards beside the autoencoder.
    target
        The model whose activations it reads; by default the one that it names.
    devices
        Where the target runs.
    output
        File for the report.
    json
        Print one JSON object.
    """

    def asked_for(task: Task) -> Teacher:
        assert teacher is not None
        return teacher_named(
            teacher,
            cache or Path(CACHE_NAME),
            price=None if price is None else Price.parse(price),
            budget=budget,
            base_url=base_url,
            task=task,
        )

    if teacher is None and corpus != CORPUS_NAME:
        raise InputError("Nobody knows what is true of this corpus. Name a chat model: --teacher.")
    if label and teacher is None:
        raise InputError("--label writes a teacher's explanations; name one with --teacher.")
    autoencoder = load_sae(sae)
    model = target_of(autoencoder, target, devices)
    autoencoder = autoencoder.to(model.model.device)
    passages = list(
        islice(texts_of(corpus, seed, max_tokens).passages(model, "heldout"), documents)
    )
    halves = [read_activity(autoencoder, model, passages[start::2]) for start in (0, 1)]
    chosen = _chosen(autoencoder.config.d_sae, latents, latent)
    explanations, judge = _explained(halves[0], chosen, asked_for if teacher else None)
    report = score_latents(
        halves[1],
        explanations,
        judge,
        sae=sae,
        explainer=teacher or KNOWN_FACTS,
        corpus=corpus,
        per_class=per_class,
    )
    if label:
        with DashboardStore(find_sae(sae) / STORE_NAME) as store:
            store.set_labels(explanations)
    if output is not None:
        write_text_atomic(output, report.model_dump_json(indent=2) + "\n")
    if json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        Console().print(summary(report))


def _chosen(d_sae: int, count: int | None, named: list[int] | None) -> list[int]:
    if named:
        bad = [each for each in named if not 0 <= each < d_sae]
        if bad:
            raise InputError(f"Latent {bad[0]} was asked for; there are 0 to {d_sae - 1}.")
        return sorted(set(named))
    step = 1 if count is None else max(1, d_sae // max(1, count))
    return list(range(0, d_sae, step))


def _explained(
    activity: Activity, chosen: list[int], asked_for: Callable[[Task], Teacher] | None
) -> tuple[Mapping[int, str], Judge]:
    if asked_for is None:
        facts = best_facts(activity)
        return {i: facts[i][0] for i in chosen if i in facts}, FactJudge()
    explanations = explain_latents(activity, chosen, asked_for(EXPLAIN))
    return explanations, TeacherJudge(asked_for(DETECT), asked_for(FUZZ))


def summary(report: AutointerpReport) -> Table:
    """The scores, for a terminal."""
    table = Table(
        title=f"{report.sae}: {report.explained} of {report.alive} latents that are active often "
        f"enough, explained by {report.explainer}, judged by {report.judge}",
        caption="balanced accuracy, 0.5 by chance; foreign: with the explanation of another latent",
    )
    for name in ("", "detection", "fuzzing", "foreign detection", "foreign fuzzing"):
        table.add_column(name, justify="right" if name else "left")
    cells = (
        shown(report.detection, report.detection_interval),
        shown(report.fuzzing, report.fuzzing_interval),
        shown(report.foreign_detection, report.foreign_detection_interval),
        shown(report.foreign_fuzzing, report.foreign_fuzzing_interval),
    )
    table.add_row("all", *cells)
    best = sorted(report.latents, key=lambda each: -(each.detection + each.fuzzing))
    for each in best[:SHOWN_LATENTS]:
        numbers = (each.detection, each.fuzzing, each.foreign_detection, each.foreign_fuzzing)
        name = Text(f"{each.latent} {each.explanation}")
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    return table
