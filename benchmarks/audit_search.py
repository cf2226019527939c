"""Search over 20 000 readings: 20 questions with one right transcript each.

    python -m benchmarks.audit_search DIRECTORY > benchmarks/results/audit/search.json

Each question names genre, topic, mood, register and speaker of a document that no other document
of the project shares. `same words`: as the NLA puts these facts; `other words`: as a person might,
with hardly a word of the NLA's. A question is answered where the right transcript is among the
first ten results. The scan goes in parts and is not done again. Latency is of the processor's
time, on one thread, which another load does not change as it does the clock's.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nlakit.audit.detect import share
from nlakit.audit.embed import Embedder, embedder
from nlakit.audit.project import Project
from nlakit.audit.search import search
from nlakit.cli import run
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import generate
from nlakit.storyworld.wording import PHRASES

SEED, DOCUMENTS, PER_DOCUMENT = 71_002, 1_250, 16
READINGS, QUESTIONS, LIMIT = 20_000, 20, 10
PART = 250
KINDS = ("genre", "topic", "mood", "register", "speaker")
OTHER_WORDS = {
    "genre": {
        "story": "a narrative",
        "couplet": "rhyming lines",
        "answers": "trivia",
        "sums": "an arithmetic exercise",
        "chat": "somebody talking to an assistant",
    },
    "topic": {
        "sea": "sailing on the ocean",
        "garden": "flowers and digging",
        "kitchen": "preparing food",
        "market": "buying at stalls",
        "mountain": "hiking to a summit",
        "music": "melodies",
        "school": "pupils in a classroom",
        "railway": "locomotives",
    },
    "mood": {
        "cheerful": "happy",
        "gloomy": "sad",
        "angry": "full of rage",
        "calm": "at peace",
        "fearful": "scared",
    },
    "register": {
        "plain": "simple language",
        "formal": "official language",
        "folksy": "rustic language",
    },
    "speaker": {
        "child": "a little boy speaks",
        "sailor": "a mariner speaks",
        "grandmother": "an old lady speaks",
        "teacher": "an instructor speaks",
        "robot": "an android speaks",
        "poet": "somebody who writes poetry speaks",
        "soldier": "a military man speaks",
        "doctor": "a medic speaks",
    },
}


class Question(NamedTuple):
    """A question, in two wordings, with the text that answers it."""

    same: str
    other: str
    answer: str


def main() -> None:
    """Scan what is left, ask, and print the figures."""
    directory = Path(sys.argv[1])
    documents = list(islice(generate(SEED, "heldout"), DOCUMENTS))
    _scan(directory, documents)
    project = Project.open(directory / "project")
    with project.index() as index:
        transcripts, readings = index.counts()
    asked = list(islice(questions(documents), QUESTIONS))
    made: dict[str, Any] = {"transcripts": transcripts, "readings": readings, "rows": []}
    for name in (None, "minilm", "wordllama"):
        meaning = None if name is None else embedder(name, by_meaning=True)
        if meaning is not None:
            search(project, "warm up", 1, meaning=meaning)  # embeds what is new
        made["rows"] += [
            {"by": name or "words", "wording": wording, **_ask(project, asked, wording, meaning)}
            for wording in ("same", "other")
        ]
    print(json.dumps(made, indent=2))


def _scan(directory: Path, documents: list[Document]) -> None:
    """Read the documents in parts, each kept once it is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(documents), PART):
        path = directory / f"part-{start:05d}.jsonl"
        lines = [json.dumps({"id": d.id, "text": d.text}) for d in documents[start : start + PART]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        done = directory / f"part-{start:05d}.done"
        if not done.exists():
            words = ["scan", str(directory / "project"), str(path), "--random", str(PER_DOCUMENT)]
            # Standard output is for the figures alone.
            with contextlib.redirect_stdout(sys.stderr):
                status = run([*words, "--max-positions", str(READINGS)])
            if status != 0:
                raise SystemExit(f"The scan of {path} failed.")
            done.touch()


def questions(documents: list[Document]) -> Iterator[Question]:
    """Documents that alone have their facts, those that say all of them early."""
    facts = [_facts(each) for each in documents]
    counts = Counter(facts)
    for document, key in zip(documents, facts, strict=True):
        if counts[key] == 1 and None not in key:
            named = list(zip(KINDS, key, strict=True))
            same = " ".join(PHRASES[kind][str(value)][0] for kind, value in named)
            other = ", ".join(OTHER_WORDS[kind][str(value)] for kind, value in named)
            yield Question(same, other, document.text)


def _facts(document: Document) -> tuple[str | None, ...]:
    held = document.state(len(document.text) // 2).facts
    return tuple(held.get(kind) for kind in KINDS)


def _ask(
    project: Project, asked: list[Question], wording: str, meaning: Embedder | None
) -> dict[str, Any]:
    with project.index() as index:
        ids = {each.text.removeprefix("<|bos|>"): each.id for each in index.transcripts()}
    right, seconds = [], []
    for question in asked:
        started = time.process_time()
        found = search(project, getattr(question, wording), LIMIT, meaning=meaning)
        seconds.append(time.process_time() - started)
        right.append(ids[question.answer] in {each.transcript for each in found})
    recall = share(right)
    return {
        "recall_at_10": recall._asdict(),
        "chance": LIMIT / len(ids),
        "p50_ms": 1000 * float(np.quantile(seconds, 0.5)),
        "p95_ms": 1000 * float(np.quantile(seconds, 0.95)),
    }


if __name__ == "__main__":
    main()
