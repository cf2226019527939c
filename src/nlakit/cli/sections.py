"""`nlakit eval private-code` and its like: one section of an evaluation each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.claims.confidence import ClaimConfidence
from nlakit.data.extraction import Progress
from nlakit.errors import InputError
from nlakit.evals.baselines import baselines as measure_baselines
from nlakit.evals.cause import cause as measure_cause
from nlakit.evals.compare import compare as measure_comparison
from nlakit.evals.private_code import BY_TEACHER, Change, asked, explanation_places
from nlakit.evals.private_code import private_code as measure_private_code
from nlakit.evals.report import write_section
from nlakit.evals.round_trips import TRIPS
from nlakit.evals.round_trips import round_trips as measure_round_trips
from nlakit.evals.rows import read_sample
from nlakit.evals.section import Section
from nlakit.evals.select import select as measure_select
from nlakit.pair.pair import Pair
from nlakit.teachers.base import Teacher
from nlakit.teachers.cost import Price
from nlakit.teachers.named import CACHE_NAME, teacher_named
from nlakit.teachers.prompt import Task
from nlakit.teachers.remote import RemoteTeacher
from nlakit.teachers.rewriting import PARAPHRASE, SUMMARY, translation
from nlakit.worlds.storyworld.calibrate import (
    CALIBRATION_DOCUMENTS,
    CALIBRATION_SEED,
    fit_confidence,
)
from nlakit.worlds.storyworld.calibrate import measure as measure_confidence
from nlakit.worlds.storyworld.planned import planned as measure_planned
from nlakit.worlds.storyworld.steering import steering as measure_steering

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions

Documents = Annotated[int, Parameter(help="Held-out documents.")]
Seed = Annotated[int, Parameter(help="Decides which documents.")]
Temperature = Annotated[float, Parameter(help="0 writes the likeliest words.")]
Output = Annotated[Path | None, Parameter(help="Directory for NAME.json and NAME.html.")]
Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object.")]


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
    output: Output = None,
    json: Json = False,
) -> None:
    """Change the explanations without changing what they mean, and see what FVE is left.

    Parameters
    ----------
    teacher
        A chat model that says each of them in other words, in a second language, and in one
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
    _check(output)

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

    with _measuring():
        sample = read_sample(pair.load_for_evaluation(devices), documents, seed, temperature)
        extra = _by_teacher(teacher_for, language, sample.reading.texts) if teacher else {}
        section = measure_private_code(sample, extra)
    _give(section, output, json)


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
            Console(stderr=True).print(said, markup=False, highlight=False)
        changes[name] = asked(teacher, texts)
    return changes


def cause(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Put the reconstructions into the target, and compare its next tokens."""
    _show(
        pair,
        devices,
        lambda loaded: measure_cause(read_sample(loaded, documents, seed, temperature)),
        output,
        json,
    )


def baselines(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Hold the explanations against readers that only look at text, neighbours or logits.

    One of them seeks a text with the same activation, at about a third of a second a document.
    """
    _check(output)
    with _measuring() as tell:
        sample = read_sample(pair.load_for_evaluation(devices), documents, seed, temperature)
        section = measure_baselines(sample, progress=tell)
    _give(section, output, json)


def round_trips(
    *,
    documents: Documents = 100,
    trips: Annotated[int, Parameter(help="Times that text is rebuilt and read again.")] = TRIPS,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Read, rebuild and read again, and see what survives."""
    _show(
        pair,
        devices,
        lambda loaded: measure_round_trips(
            read_sample(loaded, documents, seed, temperature), trips
        ),
        output,
        json,
    )


def planned(
    *,
    documents: Annotated[int, Parameter(help="Held-out documents of each kind.")] = 100,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Whether rhymes, sums, answers, counts and drills are named before they are said."""
    _show(
        pair,
        devices,
        lambda loaded: measure_planned(loaded, documents, seed, temperature),
        output,
        json,
    )


def steer(
    *,
    documents: Annotated[int, Parameter(help="Held-out couplets, a trial in each.")] = 100,
    seed: Seed = 1,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Edit the rhyme in an explanation, and see whether the target rhymes on it."""
    _show(pair, devices, lambda loaded: measure_steering(loaded, documents, seed), output, json)


def confidence(
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    thorough: Annotated[bool, Parameter(negative=())] = False,
    write: Annotated[bool, Parameter(negative=())] = False,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """How far the confidence of a claim can be taken at its word.

    Parameters
    ----------
    thorough
        Also read each place four times and its neighbours, for agreement and recurrence.
    write
        First fit the calibrator on other held-out documents, and leave it beside the pair as
        calibrator.json.
    """
    if write:
        paths = pair.paths()
        if paths is None:
            raise InputError(
                "--write leaves calibrator.json beside an NLA, and a released pair lies nowhere "
                "that is its own. Leave out --write: a calibrator is then fitted for this report."
            )
        path = _fit(pair, devices).save(paths.pair)
        sys.stderr.write(f"wrote {path}\n")
    _show(
        pair,
        devices,
        lambda loaded: measure_confidence(
            read_sample(loaded, documents, seed, temperature), thorough
        ),
        output,
        json,
    )


def select(
    *,
    documents: Annotated[int, Parameter(help="Held-out documents.")] = 200,
    seed: Seed = 1,
    temperature: Annotated[float, Parameter(help="That explanations are drawn at.")] = 1.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Draw 1, 4 and 8 explanations and keep the best by fidelity, and by confidence."""
    _show(
        pair,
        devices,
        lambda loaded: measure_select(loaded, documents, seed, temperature),
        output,
        json,
    )


def compare(
    other: Annotated[
        str | None, Parameter(help="The second pair, named or a directory, as in --nla.")
    ] = None,
    /,
    *,
    documents: Documents = 500,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    other_av: str | None = None,
    other_ar: str | None = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """FVE, precision and recall of the pair less those of OTHER, each with its interval.

    Both read the same places, and FVE of both is held against the mean of the first.

    Parameters
    ----------
    other_av
        Instead of OTHER: directory or hub name of the second verbalizer, over the same target.
    other_ar
        The reconstructor to it.
    """
    second = _other(other, other_av, other_ar, pair)
    second.check()
    _show(
        pair,
        devices,
        lambda loaded: measure_comparison(
            loaded, second.load_for_evaluation(devices), documents, seed, temperature
        ),
        output,
        json,
    )


def _other(name: str | None, av: str | None, ar: str | None, first: PairOptions) -> PairOptions:
    """The second pair of a comparison; its parts are over the target of the first."""
    if (name is None) == (av is None and ar is None):
        raise InputError("Give OTHER, or --other-av and --other-ar: the pair to compare with.")
    if name is not None:
        return PairOptions(nla=name)
    return PairOptions(av=av, ar=ar, target=str(first.source().target), mean=first.mean)


def _fit(pair: PairOptions, devices: DeviceOptions) -> ClaimConfidence:
    with Console(stderr=True).status(f"fitting on {CALIBRATION_DOCUMENTS} documents …"):
        return fit_confidence(
            pair.load_for_evaluation(devices), CALIBRATION_DOCUMENTS, CALIBRATION_SEED
        )


def _show(
    pair: PairOptions,
    devices: DeviceOptions,
    measure: Callable[[Pair], Section],
    output: Path | None,
    json: bool,
) -> None:
    _check(output)
    with _measuring():
        section = measure(pair.load_for_evaluation(devices))
    _give(section, output, json)


def _check(output: Path | None) -> None:
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")


@contextmanager
def _measuring() -> Iterator[Progress]:
    """Shows that something is being measured, and to whom it is told how much of it is left."""
    with Console(stderr=True).status("measuring …") as status:
        began = time.monotonic()

        def tell(done: int, total: int) -> None:
            left = (time.monotonic() - began) * (total - done) / done
            status.update(f"measuring, {done} of {total}, about {left:.0f} s left …")

        yield tell


def _give(section: Section, output: Path | None, json: bool) -> None:
    if output is not None:
        write_section(section, output)
    if json:
        sys.stdout.write(section.model_dump_json(indent=2) + "\n")
    else:
        Console().print(section)
