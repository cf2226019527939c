"""What the verbs of `nlakit eval` share: their options, and how a section is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.claims.registry import claim_system
from nlakit.claims.text.checking import TEXT
from nlakit.console import notices
from nlakit.data.corpora import Corpus
from nlakit.data.extraction import Progress
from nlakit.errors import InputError
from nlakit.evals.corpus_set import MINIMUM_POSITION, CorpusSet
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.readers import TeacherReader
from nlakit.evals.report import write_section
from nlakit.evals.section import Section
from nlakit.pair.pair import Pair
from nlakit.teachers.text import TextTeacher
from nlakit.worlds.storyworld.eval_set import StoryworldSet

from ..devices import DeviceOptions
from ..pairs import PairOptions

Documents = Annotated[int, Parameter(help="Held-out documents.")]
Seed = Annotated[int, Parameter(help="Decides which documents.")]
Temperature = Annotated[float, Parameter(help="0 is greedy decoding.")]
Output = Annotated[Path | None, Parameter(help="Directory for NAME.json and NAME.html.")]
Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object.")]


@Parameter(name="*")
@dataclass(frozen=True)
class CorpusOptions:
    """Which documents a pair is measured on."""

    corpus: str | None = None
    """Measure on these documents instead of the storyworld's: .jsonl, .parquet, a folder of texts,
    or hf:NAME. One eighth of them, by content, is held out."""

    minimum_position: int = MINIMUM_POSITION
    """Of a corpus, no position before this token is read."""

    def eval_set(self, pair: PairOptions) -> EvalSet:
        """The documents; those of a corpus with the claims that the pair's card declares."""
        if self.corpus is None:
            return StoryworldSet()
        return corpus_set(self.corpus, pair, self.minimum_position)


STORYWORLD_DOCUMENTS = CorpusOptions()


def corpus_set(source: str, pair: PairOptions, minimum_position: int) -> CorpusSet:
    """The evaluation set of a corpus, for a pair; where its claims are of text, with labels."""
    system = claim_system(pair.claims())
    reader = TeacherReader(TextTeacher()) if system is TEXT else None
    return CorpusSet(Corpus(source), system, minimum_position, reader=reader)


Measure = Callable[[Pair, EvalSet], Section]


def show(
    pair: PairOptions,
    devices: DeviceOptions,
    documents: CorpusOptions,
    measure: Measure,
    output: Path | None,
    json: bool,
) -> None:
    """Load the pair, measure it on the documents, and print or write the section."""
    check_output(output)
    pair.check()
    with measuring():
        eval_set = documents.eval_set(pair)
        section = measure(pair.load_for_evaluation(eval_set, devices), eval_set)
    give(section, output, json)


def check_output(output: Path | None) -> None:
    """Raise `InputError` for a directory of results that is a file."""
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")


@contextmanager
def measuring() -> Iterator[Progress]:
    """Shows that something is being measured, and to whom it is told how much of it is left."""
    with notices().status("measuring …") as status:
        began = time.monotonic()

        def tell(done: int, total: int) -> None:
            left = (time.monotonic() - began) * (total - done) / done
            status.update(f"measuring, {done} of {total}, about {left:.0f} s left …")

        yield tell


def give(section: Section, output: Path | None, json: bool) -> None:
    """Write a section into a directory, where one is given, and print it."""
    if output is not None:
        write_section(section, output)
    if json:
        sys.stdout.write(section.model_dump_json(indent=2) + "\n")
    else:
        Console().print(section)
