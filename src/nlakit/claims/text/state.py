"""What is true of a text at a position: what it is, is about, has open, and may go on with.

Computed from the text up to there and from the target's own next-token probabilities. Every list
begins with what an activation is likeliest to hold: what was said often, lately, and is rare.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from nlakit.claims.spans import FUNCTION_WORDS
from nlakit.data.labels import Place
from nlakit.models.guesses import Guess

from .words import NUMBER, WORD, alike, is_plain, rarity, says_something, stem

FORMS = (
    "chat", "code", "diary", "drama", "encyclopedia", "fiction", "science", "speech", "technical",
    "verse", "web",
)  # fmt: skip
"""Kinds of text that a document's id may name: the part before its hyphen."""
ROLES = ("user", "assistant", "system", "tool")
OPEN = ("quotation", "bracket", "list", "code", "question", "heading", "comment")

SUBJECTS, NAMES, NUMBERS, ASKED = 6, 4, 3, 3
TAIL_WORDS, TAIL_CHARACTERS = 4, 40
MOST_NAME_WORDS = 4
NEAR = 60
"""Words after which a mention weighs half."""
NUMBERS_WITHIN = 400
"""Characters: an older number is not looked for in the activation."""
LIKELY_RANK, LIKELY = 5, 0.05
"""A token may follow when it is one of the likeliest, or has this probability."""

_NAME_JOINS = frozenset(("of", "de", "van", "von", "the"))
_TITLES = frozenset(("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Capt", "Gen", "Col", "Sen"))
_BEFORE_NOUNS_WORDS = """
    the a an of in for with on by from at this that these those our their his her its your my no
    any some each every and or
"""
_BEFORE_NOUNS = frozenset(_BEFORE_NOUNS_WORDS.split())
_BEFORE_VERBS_WORDS = """
    to will would can could may might must shall should not i you he she we they it who which
    was were been being is are had has have did do does
"""
_BEFORE_VERBS = frozenset(_BEFORE_VERBS_WORDS.split())
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")
_CLOSING = {")": "(", "]": "[", "}": "{"}
_TAIL = 600
"""Characters in which what is open is looked for."""


@dataclass(frozen=True)
class TextState:
    """A text up to a position.

    Attributes:
        text: what was said so far; of a chat the messages, without the template's marks.
        form: one of `FORMS`; None where the corpus does not say.
        speaker: whose message the position is in; None in plain text.
        request: the last message of a user so far.
        guesses: the target's next tokens, the likeliest first; none where nobody asked it.
    """

    text: str
    form: str | None = None
    speaker: str | None = None
    request: str = ""
    guesses: tuple[Guess, ...] = ()

    @cached_property
    def stems(self) -> frozenset[str]:
        """Of all its words."""
        return frozenset(map(stem, WORD.findall(self.text)))

    @cached_property
    def asked_stems(self) -> frozenset[str]:
        """Of all words of the request."""
        return frozenset(map(stem, WORD.findall(self.request)))

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """What it is about: words that are frequent here, lately, and rare elsewhere."""
        return salient_words(self.text, SUBJECTS)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Proper names, by how often and how lately they were said."""
        return tuple(list(_weighted(_names(self.text)))[:NAMES])

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Numbers said lately, the last one first."""
        found = [match[0] for match in NUMBER.finditer(self.text[-NUMBERS_WITHIN:])]
        return tuple(dict.fromkeys(reversed(found)))[:NUMBERS]

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """What the user asked for."""
        return salient_words(self.request, ASKED)

    @cached_property
    def opened(self) -> tuple[str, ...]:
        """What has begun and not ended, of `OPEN`."""
        return tuple(open_parts(self.text, self.form))

    @cached_property
    def tail(self) -> str:
        """Its last pieces between blanks, with one blank between them."""
        pieces = self.text[-160:].split()[-TAIL_WORDS:]
        while len(pieces) > 1 and sum(map(len, pieces)) > TAIL_CHARACTERS:
            del pieces[0]
        return " ".join(pieces)

    @cached_property
    def likely(self) -> tuple[str, ...]:
        """Tokens that may follow, without the blanks around them; a line's end is "\\n"."""
        found = (
            visible(guess.text)
            for rank, guess in enumerate(self.guesses)
            if rank < LIKELY_RANK or guess.probability >= LIKELY
        )
        return tuple(dict.fromkeys(each for each in found if each))


def visible(token: str) -> str:
    """A token as it is claimed: without blanks; a line's end as "\\n"; "" for what is no text."""
    if "�" in token:
        return ""
    return token.strip() or ("\n" if "\n" in token else "")


def state_of(place: Place) -> TextState:
    """The state at a row of a corpus."""
    form = place.doc_id.rpartition("-")[0] or None
    known = form if form in FORMS else None
    if not place.turns:
        return TextState(place.text, known, guesses=place.guesses)
    last = place.turns[-1]
    asked = next((turn for turn in reversed(place.turns) if turn.role == "user"), None)
    return TextState(
        text="\n".join(place.text[turn.start : turn.end] for turn in place.turns),
        form=known or "chat",
        speaker=last.role if last.role in ROLES else None,
        request="" if asked is None else place.text[asked.start : asked.end],
        guesses=place.guesses,
    )


def states_of(places: Sequence[Place]) -> list[TextState]:
    """The state at each row."""
    return [state_of(place) for place in places]


# -- words -----------------------------------------------------------------------------------------
def salient_words(text: str, num: int) -> tuple[str, ...]:
    """The `num` words that say most of what a text is about, no two of them forms of one word."""
    names = {stem(part) for name, _ in _names(text) for part in WORD.findall(name)}
    weights: dict[str, float] = {}
    shown: dict[str, str] = {}
    before = ""
    for match in _whole_words(text):
        word = match[0].lower().replace("’", "'").removesuffix("'s")
        if says_something(word) and stem(word) not in names:
            weight = _place(text, match.end()) * _like_a_noun(before)
            weights[stem(word)] = weights.get(stem(word), 0.0) + weight
            shown[stem(word)] = word  # as it was said last
        before = match[0].lower()
    ranked = sorted(weights, key=lambda name: (-weights[name] * rarity(shown[name]), name))
    return tuple(_apart((shown[name] for name in ranked), num))


def _whole_words(text: str) -> Iterator[re.Match[str]]:
    """The words, without a last one that may go on."""
    return (match for match in WORD.finditer(text) if match.end() < len(text))


def _like_a_noun(before: str) -> float:
    """How much a word counts by the one before it: nouns say what a text is about."""
    return 1.3 if before in _BEFORE_NOUNS else 0.5 if before in _BEFORE_VERBS else 1.0


def _apart(words: Iterator[str], num: int) -> list[str]:
    """The first `num` of some words that are no forms of one before."""
    kept: list[str] = []
    for word in words:
        if len(kept) == num:
            break
        if not any(alike(word, other) for other in kept):
            kept.append(word)
    return kept


def _place(text: str, end: int) -> float:
    """The weight of a mention: 1 at the end of the text, half as much every `NEAR` words before."""
    distance = text.count(" ", end)
    return 0.25 + 0.75 * 0.5 ** (distance / NEAR)


def _names(text: str) -> list[tuple[str, float]]:
    """Runs of capitalised words that do not merely begin a sentence, with the weight of each."""
    found = []
    for run in _capital_runs(text):
        words = [match[0] for match in run]
        if len(run) == 1 and (_begins_sentence(text, run[0].start()) or not _may_be_name(words[0])):
            continue
        name = " ".join(text[run[0].start() : run[-1].end()].replace(".", "").split())
        found.append((name.removesuffix("'s").removesuffix("’s"), _place(text, run[-1].end())))
    return found


def _capital_runs(text: str) -> Iterator[list[re.Match[str]]]:
    run: list[re.Match[str]] = []
    for match in _whole_words(text):
        goes_on = bool(run) and _goes_on(run[-1][0], text[run[-1].end() : match.start()])
        capital = match[0][0].isupper()
        joins = goes_on and match[0] in _NAME_JOINS
        if run and not (goes_on and (capital or joins)):
            yield from _trimmed(run)
            run = []
        if capital or (run and joins):
            run.append(match)
    yield from _trimmed(run)


def _goes_on(word: str, between: str) -> bool:
    """Whether a name may go on behind a word; behind a full stop, after a title or an initial."""
    return between in (" ", "\n") or (between == ". " and (len(word) == 1 or word in _TITLES))


def _trimmed(run: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    """A run without the function words at its ends."""
    while run and run[0][0].lower() in FUNCTION_WORDS:
        run = run[1:]
    run = run[:MOST_NAME_WORDS]
    while run and run[-1][0].lower() in FUNCTION_WORDS:
        run = run[:-1]
    if run:
        yield run


def _may_be_name(word: str) -> bool:
    return len(word) > 1 and word.lower() not in FUNCTION_WORDS and not is_plain(word)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 8) : start].rstrip(" \t\"'“”‘’`(*-_#>")
    return not before or before[-1] in ".!?:;\n"


def _weighted(mentions: Collection[tuple[str, float]]) -> dict[str, float]:
    """The sum of the weights of each value, the heaviest first."""
    total: dict[str, float] = {}
    for value, weight in mentions:
        total[value] = total.get(value, 0.0) + weight
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


# -- what is open ----------------------------------------------------------------------------------
def open_parts(text: str, form: str | None = None) -> Iterator[str]:
    """What has begun at the end of a text and not ended, of `OPEN` and in its order."""
    line = text[text.rfind("\n") + 1 :]
    paragraph = text[text.rfind("\n\n") + 2 if "\n\n" in text else 0 :]
    if _quotation_is_open(paragraph):
        yield "quotation"
    if _bracket_is_open(text[-_TAIL:]):
        yield "bracket"
    if form != "code" and _ITEM.match(line):
        yield "list"
    if len(_FENCE.findall(text)) % 2:
        yield "code"
    if _question_was_asked(text[-_TAIL:]):
        yield "question"
    if form != "code" and re.match(r"#{1,6}\s", line):
        yield "heading"
    if form == "code" and re.match(r"\s*#", line):
        yield "comment"


def _quotation_is_open(paragraph: str) -> bool:
    if paragraph.count("“") > paragraph.count("”"):
        return True
    return paragraph.count('"') % 2 == 1


def _bracket_is_open(tail: str) -> bool:
    stack: list[str] = []
    for char in tail:
        if char in "([{":
            stack.append(char)
        elif char in _CLOSING and stack and stack[-1] == _CLOSING[char]:
            stack.pop()
    return bool(stack)


def _question_was_asked(tail: str) -> bool:
    """Whether the last sentence that ended was a question."""
    ends = list(_SENTENCE_END.finditer(tail))
    return bool(ends) and "?" in ends[-1][0]
