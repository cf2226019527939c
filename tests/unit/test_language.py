"""We write as the field does: paraphrases of its standard terms, which crept in once, are refused.

The glossary maps what not to write to what to write instead. Names and prose of the package, the
page, the recipes, the benchmarks and the docs are read; tests may quote.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".md", ".toml", ".j2", ".ts", ".tsx", ".yml", ".ipynb"}
NOT_OURS = ("tests/", "web/src/api/schema.d.ts", "web/node_modules/", "CHANGELOG.md")

INSTEAD = {
    r"\blikeliest words?\b": "greedy decoding",
    r"\b(?:be|was|were|been|is|are|never) taught\b": "trained, fine-tuned",
    r"\bteaches? (?:a|the) (?:judge|model|AV|AR|verbalizer|reconstructor)\b": "train",
    r"\blearns? on alone\b": "continues training",
    r"\bmade again\b|\bmake (?:it|them) again\b": "recomputed, trained again, rebuilt",
    r"\bgradients? made again\b|\brecompute the insides\b": "gradient checkpointing",
    r"\bplaces? in (?:the|a|each|\d[\d,]*) (?:batch|documents?|texts?)\b": "rows, positions",
    r"\b(?:one|each|every|some|held-out|random) places?\b": "position",
    r"\bsaid truly\b|\bas likely as (?:it|its|they) sa": "precision, calibrated",
    r"\b(?:kept|put|said) in other words\b|\bis kept in other\b": "paraphrase robustness",
    r"\bthe reconstructor to it\b": "the AR of the same pair",
    r"\b(?:only )?so many (?:tokens|rows|steps|words|vectors|blocks)\b": "N tokens",
    r"\bcannot be set up\b": "invalid settings",
    r"\brounded (?:base|weights|copy)\b": "quantized base",
    r"\b(?:cut|comes?|held|shared) in(?:to)? pieces\b|\bshared out\b": "sharded, tensor-parallel",
    r"\breaders that only look\b": "baselines",
    r"\bless (?:those|that) of\b": "difference between A and B",
    r"\b(?:is|are|was|were) drawn at\b|\bdrawn above\b": "sampled",
}
REFUSED = re.compile("|".join(f"(?:{pattern})" for pattern in INSTEAD), re.IGNORECASE)


def written_files() -> list[Path]:
    """Committed prose and code of ours."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [Path(line) for line in found.stdout.splitlines()]
    return [
        path
        for path in paths
        if path.suffix in SUFFIXES
        and not path.as_posix().startswith(NOT_OURS)
        and (ROOT / path).is_file()
    ]


def refused_in(text: str) -> list[str]:
    """The phrases in a text; one may run over a line's end, in comments too."""
    flat = re.sub(r"\s*\n\s*(?:#|//|\*|>)?\s*", " ", text)
    return [match[0] for match in REFUSED.finditer(flat)]


def test_no_file_paraphrases_a_term_of_the_field():
    wrong = {
        path.as_posix(): sorted({phrase.lower() for phrase in found})
        for path in written_files()
        if (found := refused_in((ROOT / path).read_text(encoding="utf-8")))
    }
    assert wrong == {}, f"use the glossary's words instead: {INSTEAD}"


@pytest.mark.parametrize(
    "text, phrase",
    [
        ("0 writes the likeliest words", "likeliest words"),
        ("it was\n    taught to say", "was taught"),
        ("# less those\n# of the other", "less those of"),
        ("Held-out, one place in each.", "one place"),
    ],
)
def test_guard_sees_a_phrase_and_across_lines(text, phrase):
    assert refused_in(text) == [phrase]


@pytest.mark.parametrize(
    "text", ["in place of it", "the teacher", "greedy decoding", "a workplace", "less than that"]
)
def test_guard_lets_plain_english_pass(text):
    assert refused_in(text) == []
