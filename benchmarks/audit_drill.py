"""Detection of "drill" in 500 chats by a probe, by the NLA and by the text alone.

    python -m benchmarks.audit_drill DIRECTORY > benchmarks/results/audit/drill.json

DIRECTORY is that of `benchmarks.audit_scan`, whose project `whole` is read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nlakit.audit.detect import detect, share
from nlakit.audit.detectors import Detector, asker
from nlakit.audit.index import Filters, ReadingRow
from nlakit.audit.project import Project
from nlakit.audit.vectors import vectors_of
from nlakit.evals.probe_store import load_probes
from nlakit.registry import bundled_path
from nlakit.storyworld import lexicon as lex
from nlakit.storyworld.wording import KEYWORDS, PHRASES

from .audit_chats import drill_chats, kinds_by_text

SIGNS = "|".join(lex.DRILL_SIGNS)
CONDUCT = "|".join(lex.DRILL_CONDUCT)
HALF = 0.5
Say = dict[str, bool]
"""By a transcript's id, whether it is called a drill."""


def main() -> None:
    """Print hits and false alarms of every method."""
    directory = Path(sys.argv[1])
    project = Project.open(directory / "whole")
    with project.index() as index:
        transcripts = {each.id: each.text for each in index.transcripts()}
        rows = index.readings(Filters(first_sample=True))
    known = kinds_by_text(drill_chats())
    kinds = {name: known[text[text.index("<|system|>") :]] for name, text in transcripts.items()}
    said = {
        "probe, most positions": _by_probe(project, rows),
        "NLA, any reading": _by_nla(rows),
        "NLA, `nlakit detect` says found": _by_detector(project),
        "text alone, signs of a drill": _by_words(transcripts, SIGNS),
        "text alone, signs and conduct": _by_words(transcripts, f"{SIGNS}|{CONDUCT}"),
        "NLA, after the system line": _by_nla([row for row in rows if row.role != "system"]),
        "text alone after the system line, signs": _by_words(_turns(transcripts), SIGNS),
    }
    made = {
        "transcripts": len(transcripts),
        "positions": len(rows),
        "methods": [{"method": name, **_rates(say, kinds)} for name, say in said.items()],
    }
    print(json.dumps(made, indent=2))


def _rates(say: Say, kinds: dict[str, str]) -> dict[str, Any]:
    return {
        kind: share([say[name] for name, each in kinds.items() if each == kind])._asdict()
        for kind in ("text", "state", "none")
    }


def _by_transcript(rows: Sequence[ReadingRow], holds: Callable[[int], bool], least: float) -> Say:
    numbered = groupby(enumerate(rows), key=lambda each: each[1].transcript)
    found = {name: [holds(i) for i, _ in group] for name, group in numbered}
    return {name: sum(each) > least * len(each) for name, each in found.items()}


def _by_probe(project: Project, rows: Sequence[ReadingRow]) -> Say:
    probes = load_probes(bundled_path())
    assert probes is not None, "the bundled pair has probes"
    answers = [probes.read(vector_D)["drill"].value for vector_D in vectors_of(project, rows)]
    return _by_transcript(rows, lambda i: answers[i] == "yes", HALF)


def _by_nla(rows: Sequence[ReadingRow]) -> Say:
    pattern = re.compile(rf"\b(?:{KEYWORDS['drill']['yes']})\b", re.IGNORECASE)
    return _by_transcript(rows, lambda i: bool(pattern.search(rows[i].explanation)), 0.0)


def _by_detector(project: Project) -> Say:
    detector = Detector(name="drill", phrases=(*PHRASES["drill"]["yes"], *lex.DRILL_SIGNS))
    made = detect(project, detector, asker(detector, project.directory / "judges.sqlite"))
    return {each.transcript: each.label == "found" for each in made.transcripts}


def _turns(transcripts: dict[str, str]) -> dict[str, str]:
    """Without the system line, which logs of deployed models often withhold."""
    return {name: text[text.index("<|user|>") :] for name, text in transcripts.items()}


def _by_words(transcripts: dict[str, str], words: str) -> Say:
    pattern = re.compile(words, re.IGNORECASE)
    return {name: bool(pattern.search(text)) for name, text in transcripts.items()}


if __name__ == "__main__":
    main()
