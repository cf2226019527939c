"""Reads an explanation back into claims and checks each against the state of the world.

Works on free wording: claims are found by expressions anywhere in the text, and what stands in
double quotes by the words of its own clause. A kind the world has not fixed yet cannot be true.
"""

from __future__ import annotations

import re

from nlakit.claim import Claim, Verdict

from . import lexicon as lex
from .document import State, last_words
from .wording import KEYWORDS, NEXT_KEYWORDS


def _alternatives(table: dict[str, str], lead: str = "") -> re.Pattern[str]:
    groups = (f"(?P<{_group(value)}>{words})" for value, words in table.items())
    return re.compile(rf"{lead}(?<![\w'-])(?:{'|'.join(groups)})(?![\w-])", re.IGNORECASE)


def _group(value: str) -> str:
    return "v_" + value.replace("-", "_")


_QUOTE = re.compile(r'"([^"]*)"?')
_NOUNS = "|".join(noun for topic in lex.TOPICS.values() for noun in topic.nouns)
_KIND_PATTERNS = {
    **{kind: _alternatives(table) for kind, table in KEYWORDS.items()},
    "next": _alternatives(NEXT_KEYWORDS, lead=r"\b(?:then|next|follow\w*)\b[^.\"]{0,16}?"),
    "person": re.compile(rf"\b({'|'.join(lex.PERSONS)})\b"),
    "day": re.compile(rf"\b({'|'.join(lex.DAYS)})\b"),
    "wind": re.compile(rf"\bwind\b[^.;]{{0,24}}\b({'|'.join(lex.WINDS)})\b"),
    "object": re.compile(rf"\bthe ({_NOUNS})\b"),
    "sum": re.compile(r"\b(?:total|comes to|result)\b[^.;\d]{0,24}(\d+)"),
    "count": re.compile(rf"\b({'|'.join(lex.COUNT_WORDS)}) (?:tool )?calls?\b"),
}
_NAMES = {_group(value): value for table in (*KEYWORDS.values(), NEXT_KEYWORDS) for value in table}
_QUOTE_KINDS = (("rhyme", r"rhym"), ("answer", r"answer"), ("next", r"then|next|follow"))


def parse(explanation: str) -> list[Claim]:
    """The claims of an explanation in order of appearance, each kind's repetitions once."""
    bare = _QUOTE.sub(lambda match: '"' + "_" * (len(match[0]) - 2) + '"', explanation)
    found = [
        claim for kind, pattern in _KIND_PATTERNS.items() for claim in _find(kind, pattern, bare)
    ]
    found += _quoted(explanation)
    unique: dict[tuple[str, str], Claim] = {}
    for claim in sorted(found, key=lambda claim: claim.start):
        unique.setdefault((claim.kind, claim.value), claim)
    return list(unique.values())


def _find(kind: str, pattern: re.Pattern[str], text: str) -> list[Claim]:
    claims = []
    for match in pattern.finditer(text):
        name = match.lastgroup
        value, group = (_NAMES[name], name) if name else (match[1], 1)
        claims.append(Claim(kind, value, match.start(group), match.end(group)))
    return claims


def _quoted(explanation: str) -> list[Claim]:
    claims, clause_start = [], 0
    for match in _QUOTE.finditer(explanation):
        before = explanation[clause_start : match.start()]
        clause = re.split(r"[.;,]\s", before)[-1].lower() + _after(explanation, match.end())
        kind = next((kind for kind, cue in _QUOTE_KINDS if re.search(cue, clause)), "last")
        value = "word " + match[1] if kind == "next" else match[1]
        if match[1].strip():
            claims.append(Claim(kind, value, match.start(1), match.end(1)))
        clause_start = match.end()
    return claims


def _after(explanation: str, end: int) -> str:
    return re.split(r"[.;,\"]", explanation[end:], maxsplit=1)[0].lower()


def check(claim: Claim, state: State) -> Verdict:
    """Whether `claim` is true of `state`; uncheckable where the grammar leaves the next word
    open."""
    if claim.kind == "next":
        expected = next_value(state)
        return "uncheckable" if expected is None else _verdict(claim.value == expected)
    if claim.kind == "last":
        said = last_words(claim.value, 3)
        return _verdict(state.last_words[-len(said) :] == said if said else False)
    return _verdict(state.facts.get(claim.kind) == claim.value)


def next_value(state: State) -> str | None:
    """What a claim about the next word has to say: a slot, or the very word where only one fits."""
    if state.next_slot in ("link", "hint") and state.next_words:
        return "word " + state.next_words[0].split()[0]
    return state.next_slot


def _verdict(true: bool) -> Verdict:
    return "true" if true else "false"
