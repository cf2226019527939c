"""English words: which say something, which are the same word, and which are rare.

Nothing is trained or downloaded. `stems.txt` counts in how many of 32 356 documents of eleven kinds
a stem stands (`recipes/count_stems.py`), so that a word's weight depends on nobody's corpus.
"""

from __future__ import annotations

import importlib.resources
import math
import re
from functools import cache

from nlakit.claims.spans import FUNCTION_WORDS, NUMBER_WORDS

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
"""A run of letters; an apostrophe within it belongs to it."""

NUMBER = re.compile(r"(?<![\w.,])[$€£]?\d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s|%)?(?!\w)")

NUM_DOCUMENTS = 32_356
_MINIMUM_LETTERS = 3
_SAME_START = 6
"""Words that begin with as many equal letters are taken for forms of one word."""

# (ending, what takes its place, letters that a word must have): the first that fits is taken.
_ENDINGS = (
    ("ies", "y", 5), ("sses", "ss", 6), ("xes", "x", 5), ("ches", "ch", 6), ("shes", "sh", 6),
    ("ing", "", 6), ("edly", "", 7), ("ed", "", 5), ("s", "", 4),
)  # fmt: skip

# Words that say nothing of what a text is about, beside the function words.
_PLAIN_WORDS = """
    thing things something way ways time times day days year years man men people person place
    part parts kind kinds sort lot bit case fact point matter end side hand hands good great new
    old little long large small big high low own first second last next right left best better
    well able sure true full whole real certain different possible important general make made
    know known think thought see seen look looked want wanted find found come came go went get
    got take took give gave keep kept let say said tell told ask asked put set use used show
    shown seem seemed feel felt become became leave begin began turn turned bring brought hold
    held try tried help helped work worked run ran move moved live lived believe happen happened
    today yesterday tomorrow tonight yes no ok okay please thank thanks hello hi dear sir mr mrs
    ms st de la le von van ll ve re don didn isn doesn wasn couldn wouldn shouldn
    thou thee thy thine hath doth art shalt wilt unto ye haue vpon oh viz etc eg ie
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())


# Words of the carriers, and those that drifting explanations put around values.
_CARRIER_WORDS = """
    text texts passage passages subject subjects topic topics theme document documents excerpt
    about named names naming mention mentions mentioned words word token tokens number numbers
    user assistant system tool speaking speaks turn wants asked asks question questions next
    come comes follow follows following may might then stops stop ends end ending last inside
    open going being written just started article entry page work kind discussion discusses
    discussing describing describes description content context explanation comma full stop line
    colon semicolon mark quotation quote bracket list heading comment block code conversation
    chat continues continue final near close far
"""
_CARRIERS = frozenset(_CARRIER_WORDS.split())


@cache
def stem(word: str) -> str:
    """What forms of one word have in common: cars and car, injury and injuries, use and using."""
    found = word.lower().replace("’", "'").removesuffix("'s")
    for ending, instead, least in _ENDINGS:
        if found.endswith(ending) and len(found) >= least:
            if ending == "s" and found[-2:] in ("ss", "us", "is"):
                continue
            found = found[: len(found) - len(ending)] + instead
            break
    if len(found) >= 4 and found[-1] == found[-2] and found[-1] not in "lsz":
        found = found[:-1]
    found = found[:-1] if len(found) >= 4 and found.endswith("e") else found
    return f"{found[:-1]}i" if len(found) >= 4 and found.endswith("y") else found


def says_something(word: str) -> bool:
    """Whether a text can be about a word: no function word, no filler, no adverb."""
    lower = word.lower().replace("’", "'")
    if len(lower) < _MINIMUM_LETTERS or lower in FUNCTION_WORDS or lower in NUMBER_WORDS:
        return False
    adverb = lower.endswith("ly") and len(lower) > 5
    return not adverb and "'" not in lower.removesuffix("'s") and not is_plain(lower)


def is_plain(word: str) -> bool:
    """Whether a word is filler, or one of those around the values of a label."""
    return stem(word) in _empty_stems()


def rarity(word: str) -> float:
    """Nats: −log of the share of documents that have the word; of one in none, as of one in eight.

    So a word that was never seen does not outweigh all that are merely rare.
    """
    return math.log(NUM_DOCUMENTS / max(8, _counts().get(stem(word), 0)))


def alike(one: str, other: str) -> bool:
    """Whether two words are forms of one: data and data-driven, policy and policymaker."""
    first, second = stem(one), stem(other)
    if first == second:
        return True
    shorter = min(len(first), len(second))
    shared = min(_SAME_START, max(4, shorter))
    return shorter >= 4 and first[:shared] == second[:shared]


@cache
def _empty_stems() -> frozenset[str]:
    return frozenset(map(stem, _PLAIN | _CARRIERS))


@cache
def _counts() -> dict[str, int]:
    path = importlib.resources.files("nlakit.claims.text") / "stems.txt"
    counts: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        count, _, stems = line.partition(" ")
        counts |= dict.fromkeys(stems.split(), int(count))
    return counts
