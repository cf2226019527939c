"""Reads an explanation back into claims, whoever worded it.

Written for the labels of `wording` and for what becomes of them in RL: sentences lose their
carriers, lists their commas. What stands in quotes, what is a number, what is capitalised and what
is left of the words is told apart by its form, and the words around it only decide where that is
not enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from nlakit.claim import Claim, Extent

from .state import ROLES
from .wording import FORM_PHRASES, OPEN_PHRASES, TOKEN_NAMES
from .words import NUMBER, WORD, says_something

# Whatever wording RL drifts to, these words tell the form; the longer ones first.
FORM_WORDS: dict[str, str] = {
    "chat": r"conversation|chat|dialogue",
    "code": r"(?:source|program|python) code|code|script",
    "diary": r"diary|journal(?: entry)?",
    "drama": r"play|drama|tragedy|comedy",
    "encyclopedia": r"encyclop(?:a?edia|a?edic)(?: article| entry)?",
    "fiction": r"(?:work of )?fiction|novel|story",
    "science": r"scientific (?:treatise|work|text)|treatise",
    "speech": r"(?:political )?speech|address",
    "technical": r"technical (?:documentation|manual|text)|documentation|manual",
    "verse": r"poem|poetry|verse",
    "web": r"web ?(?:page|article|site)|blog",
}
OPEN_WORDS: dict[str, str] = {
    "quotation": r"quotation|quote",
    "bracket": r"bracket|parenthes[ie]s",
    "list": r"list|enumeration",
    "code": r"code block",
    "question": r"question",
    "heading": r"heading|title",
    "comment": r"comment",
}
_FORM = re.compile(
    rf"(?<![\w'-])(?:{'|'.join(f'(?P<{form}>{words})' for form, words in FORM_WORDS.items())})"
    r"(?![\w-])",
    re.IGNORECASE,
)
_INSIDE = r"(?:inside|within|in|asked|opens?|started|begun)(?: an?| the)? (?:open |unfinished )?"
_GOES_ON = (
    r"(?: mark)?(?: is| was)?(?: still)? (?:open|going on|being written|just asked|unfinished)"
)
_OPEN = {
    part: re.compile(
        rf"\b(?:{_INSIDE}(?P<inside>{words})\b(?! mark)|(?P<on>{words}){_GOES_ON}\b)", re.IGNORECASE
    )
    for part, words in OPEN_WORDS.items()
}
_ROLE = "|".join(ROLES)
_SPEAKER = re.compile(
    rf"\b(?P<before>{_ROLE})(?: is|'s)? (?:speaks|speaking|turn|writes|writing|talking)\b"
    rf"|\b(?:spoken|said|written) by (?:the )?(?P<by>{_ROLE})\b",
    re.IGNORECASE,
)
_QUOTE = re.compile(r'"([^"\n]+)"?')
_NAMED_TOKEN = re.compile(
    "|".join(f"\\b{re.escape(name)}\\b" for name in sorted(TOKEN_NAMES.values(), key=len)),
    re.IGNORECASE,
)
_TOKEN_OF = {name: token for token, name in TOKEN_NAMES.items()}
_NEXT_CUE = re.compile(r"\b(?:next|then|follow\w*|comes?|continu\w*|expect\w*|after)\b", re.I)
_LAST_CUE = re.compile(r"\b(?:stop\w*|end\w*|last|final|breaks?)\b", re.I)
_ASKED_CUE = re.compile(r"\b(?:asked|asks|wants?|requests?|requested|looking for)\b", re.I)
_SENTENCE = re.compile(r"[.!?]\s+|\n")
_CLAUSE = re.compile(r"[.;!?]\s|\n")


class _Taken(NamedTuple):
    """Characters that a claim or its carrier has used up."""

    start: int
    end: int


def find(explanation: str) -> list[Claim]:
    """The claims of an explanation in order of appearance, each kind's repetitions once."""
    taken: list[_Taken] = []
    found: list[Claim] = []
    for finder in (_quoted, _opened, _spoken, _formed, _numbered, _worded):
        for claim, span in finder(explanation, taken):
            found.append(claim)
            taken.append(span)
    unique: dict[tuple[str, str], Claim] = {}
    for claim in sorted(found, key=lambda claim: (claim.start, claim.end)):
        unique.setdefault((claim.kind, claim.value), claim)
    return list(unique.values())


def extent(explanation: str, claim: Claim) -> Extent:
    """A claim is decided in its own words; the kind of text has as many wordings as phrases.

    That something is open is decided where its sentence begins: once that has said "it is inside
    a", what follows is the likeliest of what might be open, and seldom in doubt.
    """
    if claim.kind == "open":
        before = _masked(explanation, _QUOTE)[: claim.start]
        start = max((match.end() for match in _SENTENCE.finditer(before)), default=0)
        return Extent(start, claim.end, len(OPEN_PHRASES[claim.value]))
    wordings = len(FORM_PHRASES[claim.value]) if claim.kind == "form" else 1
    return Extent(claim.start, claim.end, wordings)


_Found = Iterator[tuple[Claim, _Taken]]


def _quoted(text: str, taken: list[_Taken]) -> _Found:
    """What stands in quotes, and the tokens that have names: the last words, or what may follow."""
    for match in _QUOTE.finditer(text):
        inner, span = match[1], _Taken(*match.span())
        if not inner.strip():
            continue
        if _is_next(text, match.start()):
            yield Claim("next", inner.strip(), match.start(1), match.end(1)), span
            continue
        before, _, last = inner.rstrip().rpartition(" ")
        end = match.start(1) + len(inner.rstrip())
        yield Claim("last", last, end - len(last), end), span
        if before.strip():
            start = match.start(1)
            yield Claim("before", " ".join(before.split()), start, start + len(before)), span
    for match in _NAMED_TOKEN.finditer(_masked(text, _QUOTE)):
        if _is_next(text, match.start()):
            token = _TOKEN_OF[match[0].lower()]
            yield Claim("next", token, *match.span()), _Taken(*match.span())


def _is_next(text: str, start: int) -> bool:
    """Whether the nearest cue before a place, in its statement, is of what follows."""
    masked = _masked(_masked(text, _QUOTE), _NAMED_TOKEN)
    lead = masked[:start]
    begin = max((match.end() for match in _SENTENCE.finditer(lead)), default=0)
    cues = [(match.start(), kind) for kind, cue in ((1, _NEXT_CUE), (0, _LAST_CUE))
            for match in cue.finditer(lead, begin)]  # fmt: skip
    if cues:
        return bool(max(cues)[1])
    behind = re.match(r"[^.!?\n;]*", masked[start:])
    return bool(behind and re.search(r"\bmay follow|\bfollows?\b|\bnext\b", behind[0]))


def _opened(text: str, taken: list[_Taken]) -> _Found:
    masked = _masked(text, _QUOTE)
    for part, pattern in _OPEN.items():
        for match in pattern.finditer(masked):
            group = "inside" if match["inside"] else "on"
            yield Claim("open", part, *match.span(group)), _Taken(*match.span())


def _spoken(text: str, taken: list[_Taken]) -> _Found:
    for match in _SPEAKER.finditer(_masked(text, _QUOTE)):
        group = "before" if match["before"] else "by"
        yield Claim("speaker", match[group].lower(), *match.span(group)), _Taken(*match.span())


def _formed(text: str, taken: list[_Taken]) -> _Found:
    """The kind of text: said first if at all, since "a story" further on may be a subject."""
    for match in _FORM.finditer(_masked(text, _QUOTE)):
        if _is_free(match.span(), taken) and match.lastgroup:
            yield Claim("form", match.lastgroup, *match.span()), _Taken(*match.span())
            return


def _numbered(text: str, taken: list[_Taken]) -> _Found:
    for match in NUMBER.finditer(_masked(text, _QUOTE)):
        if _is_free(match.span(), taken):
            yield Claim("number", match[0], *match.span()), _Taken(*match.span())


def _worded(text: str, taken: list[_Taken]) -> _Found:
    """Names and subjects: what is left of the words. After "the user asked" they are asked for."""
    masked = _masked(text, _QUOTE)
    for clause in _pieces(masked, _CLAUSE):
        cue = _ASKED_CUE.search(masked, *clause)
        for run in _runs(masked, clause, taken):
            asked = cue is not None and cue.end() <= run.start
            yield from _run_claims(text, run, clause[0], asked)


class _Run(NamedTuple):
    """Words with nothing but a blank between them."""

    start: int
    end: int
    words: tuple[re.Match[str], ...]


def _runs(text: str, clause: tuple[int, int], taken: list[_Taken]) -> Iterator[_Run]:
    """Stretches of words in which a value may lie: no function word but those within names."""
    run: list[re.Match[str]] = []
    for match in WORD.finditer(text, *clause):
        capital = match[0][0].isupper()
        joins = bool(run) and match[0] in ("of", "de", "van", "von", "the") and _capital(run[-1])
        useful = _is_free(match.span(), taken) and (says_something(match[0]) or capital or joins)
        near = bool(run) and text[run[-1].end() : match.start()] in (" ", "-", ". ")
        if run and not (useful and near):
            yield from _closed(run)
            run = []
        if useful:
            run.append(match)
    yield from _closed(run)


def _closed(run: list[re.Match[str]]) -> Iterator[_Run]:
    while run and not (_capital(run[-1]) or says_something(run[-1][0])):
        run.pop()
    if run:
        yield _Run(run[0].start(), run[-1].end(), tuple(run))


def _run_claims(text: str, run: _Run, clause_start: int, asked: bool) -> _Found:
    """The claims of a run: its capitalised part is a name, each other word a subject."""
    named: list[re.Match[str]] = []
    for word in run.words:
        opens = not text[clause_start : word.start()].strip()
        if _capital(word) and not (opens and not named) or (named and not says_something(word[0])):
            named.append(word)
            continue
        if named:
            yield _name(text, named, asked)
            named = []
        lower = word[0].lower()
        if says_something(lower):
            kind = "asked" if asked else "subject"
            value = lower.removesuffix("'s").removesuffix("’s")
            yield Claim(kind, value, *word.span()), _Taken(*word.span())
    if named:
        yield _name(text, named, asked)


def _name(text: str, words: list[re.Match[str]], asked: bool) -> tuple[Claim, _Taken]:
    start, end = words[0].start(), words[-1].end()
    value = " ".join(text[start:end].split())
    return Claim("asked" if asked else "name", value, start, end), _Taken(start, end)


def _capital(word: re.Match[str]) -> bool:
    return word[0][0].isupper()


def _pieces(text: str, cut: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for match in cut.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def _masked(text: str, pattern: re.Pattern[str]) -> str:
    """The text with what a pattern finds blanked out, every character in its place."""
    return pattern.sub(lambda match: "_" * len(match[0]), text)


def _is_free(span: tuple[int, int], taken: list[_Taken]) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)
