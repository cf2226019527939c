"""Claims in prose that no grammar wrote: quoted words, numbers, names and simple noun phrases.

For explanations of real models, whose claims nobody has parsed. A claim here is a stretch of words
that could have been other words; whether it is true is not asked. Found by punctuation, capitals
and a list of function words, for English; nothing is trained or downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from nlakit.claim import Claim

from .system import ClaimSystem, own_words

SENTENCE = re.compile(r'(?:"[^"]*"|[^.!?"]|"(?![^"]*"))+[.!?]*')
"""A sentence with its mark; a full stop in quotes ends none."""

MOST_WORDS = 4
"""A run of more words than this is no noun phrase but a sentence without function words: its last
ones are taken, where the noun stands."""

_FUNCTION_WORDS = """
    a an the this that these those some any each every no none all both either neither such same
    other another own one ones few many much more most less least several enough
    i me my mine we us our you your he him his she her hers it its they them their who whom whose
    which what when where why how whether there here then now
    someone somebody something anyone anything everyone everything nobody nothing
    and or but nor so yet if because since as although though while unless until than like unlike
    of in on at by for with without within about above below under over between among through
    during before after against into onto upon from to toward towards up down out off around
    across along near behind beyond per via despite except not only also just even still already
    again too very quite rather almost perhaps maybe ever never always often sometimes soon once
    am is are was were be been being do does did done doing have has had having can could may might
    must shall should will would ought cannot
    say says said saying tell tells told telling ask asks asked asking call calls called calling
    mean means meant suggest suggests suggested suggesting imply implies implied implying
    indicate indicates indicated indicating describe describes described describing
    mention mentions mentioned mentioning refer refers referred referring
    discuss discusses discussed discussing explain explains explained explaining
    follow follows followed following precede precedes preceded preceding
    begin begins began begun beginning start starts started starting
    end ends ended ending stop stops stopped stopping continue continues continued continuing
    expect expects expected expecting require requires required requiring need needs needed
    introduce introduces introduced introducing contain contains contained containing
    include includes included including involve involves involved involving
    seem seems seemed appear appears appeared appearing become becomes became becoming
    make makes made making take takes took taken taking give gives gave given giving
    get gets got getting go goes went gone going come comes came coming
    set sets setting put puts putting use uses used using show shows showed shown showing
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words of which no phrase is made, verbs of description among them."""

_NUMBER_WORDS = """
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    thousand million billion dozen half third fourth fifth sixth seventh eighth ninth tenth
"""
NUMBER_WORDS = frozenset(_NUMBER_WORDS.split())
"""Without "one" and "second", which are seldom numbers."""

_QUOTE = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`')
_NUMBER = re.compile(r"(?<![\w.])[$€£]?\d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s)?%?(?![\w])")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_JOINED_NAMES = frozenset(("of", "de", "van", "von", "the", "la", "and"))
_SENTENCE_ENDS = ".!?:\n"

Span = tuple[int, int]
Word = re.Match[str]
GoesOn = Callable[[Sequence[Word], Word], bool]
"""Whether a word goes on a run of words, or begins one."""


def find_spans(explanation: str) -> list[Claim]:
    """The claims of an explanation in order of appearance, none within another, each value once.

    Kinds: `quote` (what stands in quotation marks, without them), `number`, `name`, `phrase`.
    """
    unique: dict[tuple[str, str], Claim] = {}
    for claim in _mentions(explanation):
        unique.setdefault((claim.kind, claim.value), claim)
    return list(unique.values())


def _mentions(explanation: str) -> list[Claim]:
    """As `find_spans`, with every occurrence of a value."""
    found: list[Claim] = []
    for finder in (_quotes, _numbers, _names, _phrases):
        found += finder(explanation, [(each.start, each.end) for each in found])
    return sorted(found, key=lambda claim: claim.start)


def _quotes(text: str, taken: Sequence[Span]) -> Iterator[Claim]:
    for match in _QUOTE.finditer(text):
        group = match.lastindex or 0
        if match[group].strip():
            yield Claim("quote", match[group].strip(), match.start(group), match.end(group))


def _numbers(text: str, taken: Sequence[Span]) -> Iterator[Claim]:
    spelled = (word for word in _WORD.finditer(text) if word[0].lower() in NUMBER_WORDS)
    for match in (*_NUMBER.finditer(text), *spelled):
        if _is_free(match.span(), taken):
            yield Claim("number", match[0].replace(",", "").lower(), *match.span())


def _names(text: str, taken: Sequence[Span]) -> Iterator[Claim]:
    for run in _runs(text, _free_words(text, taken), _goes_on_a_name):
        while run and not _is_capital(run[-1][0]):
            run.pop()
        if run and not (len(run) == 1 and _may_be_plain(text, run[0])):
            start, end = run[0].start(), run[-1].end()
            yield Claim("name", text[start:end], start, end)


def _phrases(text: str, taken: Sequence[Span]) -> Iterator[Claim]:
    for run in _runs(text, _free_words(text, taken), _goes_on_a_phrase):
        kept = run[-MOST_WORDS:]
        if len(kept) > 1 or len(kept[0][0]) > 2:
            start, end = kept[0].start(), kept[-1].end()
            yield Claim("phrase", text[start:end].lower(), start, end)


def _goes_on_a_name(run: Sequence[Word], word: Word) -> bool:
    if run and word[0] in _JOINED_NAMES:
        return True
    return _is_capital(word[0]) and (bool(run) or word[0].lower() not in FUNCTION_WORDS)


def _goes_on_a_phrase(run: Sequence[Word], word: Word) -> bool:
    lower = word[0].lower()
    return lower not in FUNCTION_WORDS and not (lower.endswith("ly") and len(lower) > 4)


def _runs(text: str, words: Sequence[Word], goes_on: GoesOn) -> Iterator[list[Word]]:
    """Words next to each other, with nothing but blanks between, for as long as they go on."""
    run: list[Word] = []
    for word in words:
        if run and not (text[run[-1].end() : word.start()].isspace() and goes_on(run, word)):
            yield run
            run = []
        if run or goes_on(run, word):
            run.append(word)
    if run:
        yield run


def _free_words(text: str, taken: Sequence[Span]) -> list[Word]:
    return [word for word in _WORD.finditer(text) if _is_free(word.span(), taken)]


def _is_free(span: Span, taken: Sequence[Span]) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)


def _is_capital(word: str) -> bool:
    return word[0].isupper()


def _may_be_plain(text: str, word: Word) -> bool:
    """Whether one capital at a sentence's start, or of a single letter, says nothing."""
    before = text[: word.start()].rstrip(' \t"“«`(*-')
    starts = not before or before[-1] in _SENTENCE_ENDS
    return len(word[0]) == 1 or (starts and not any(letter.isupper() for letter in word[0][1:]))


# -- leaving claims out ----------------------------------------------------------------------------
HEDGES = {"quote": "…", "number": "some", "name": "someone or something", "phrase": "something"}
"""What is said in place of a claim that is not made."""


def hedged(explanation: str, dropped: Collection[Claim]) -> str:
    """The explanation without some of the claims that `find_spans` finds in it.

    A sentence of which no claim is left goes; in the others the claim's words give way to a hedge,
    wherever they are said again. Paragraphs stay paragraphs.
    """
    values = {(claim.kind, claim.value) for claim in dropped}
    claims = _mentions(explanation)
    kept: list[str] = []
    for paragraph in re.finditer(r"[^\n]+", explanation):
        said = [
            _hedged_sentence(explanation, sentence.span(), claims, values)
            for sentence in SENTENCE.finditer(explanation, *paragraph.span())
        ]
        kept.append(" ".join(part for part in said if part))
    return "\n\n".join(part for part in kept if part)


def _hedged_sentence(
    text: str, span: Span, claims: Sequence[Claim], values: Collection[tuple[str, str]]
) -> str:
    inside = [claim for claim in claims if span[0] <= claim.start and claim.end <= span[1]]
    gone = [claim for claim in inside if (claim.kind, claim.value) in values]
    if gone and len(gone) == len(inside):
        return ""
    parts, at = [], span[0]
    for claim in gone:
        parts += [text[at : claim.start], HEDGES[claim.kind]]
        at = claim.end
    return "".join([*parts, text[at : span[1]]]).strip()


SPANS = ClaimSystem(
    "spans", ("quote", "number", "name", "phrase"), find_spans, own_words, without=hedged
)
"""Claims of prose that nobody has parsed: found, and never checked."""
