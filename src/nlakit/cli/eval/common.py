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

from nlakit.card import ReadSpan
from nlakit.claims.registry import claim_system
from nlakit.claims.text.checking import TEXT
from nlakit.console import notices
from nlakit.data.corpora import Corpus
from nlakit.data.extraction import Progress
from nlakit.errors import InputError
from nlakit.evals.corpus_set import MAX_TOKENS, MINIMUM_POSITION, CorpusSet
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

    minimum_position: int | None = None
    """Of a corpus, no position before this token is read; by default as in the pair's training, or
    50."""

    max_tokens: int | None = None
    """Of a corpus, documents are cut there; by default as in the pair's training, or at 1,024."""

    def eval_set(self, pair: PairOptions) -> EvalSet:
        """The documents; those of a corpus with the claims that the pair's card declares."""
        if self.corpus is None:
            return StoryworldSet()
        return corpus_set(self.corpus, pair, self.minimum_position, self.max_tokens)


STORYWORLD_DOCUMENTS = CorpusOptions()


def corpus_set(
    source: str, pair: PairOptions, minimum_position: int | None, max_tokens: int | None
) -> CorpusSet:
    """The evaluation set of a corpus, for a pair; where its claims are of text, with labels.

    Raises:
        InputError: no token can lie between the two.
    """
    card = pair.card()
    usual = card.span or ReadSpan(minimum_position=MINIMUM_POSITION, max_tokens=MAX_TOKENS)
    first = usual.minimum_position if minimum_position is None else minimum_position
    end = usual.max_tokens if max_tokens is None else max_tokens
    if first < 0 or end <= first:
        raise InputError(
            f"--minimum-position {first} and --max-tokens {end}: expected a position of 0 or more, "
            "below the number of tokens."
        )
    system = claim_system(card.claims)
    reader = TeacherReader(TextTeacher()) if system is TEXT else None
    return CorpusSet(Corpus(source), system, first, end, reader)


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
