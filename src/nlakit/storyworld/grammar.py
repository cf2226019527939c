"""The storyworld's documents, written from explicit hidden facts by small grammars, one a genre.

Nearly every word is chosen by one of the document's hidden facts (topic, mood, register, speaker,
goal), and asides, adjectives and adverbs may come almost anywhere: to predict the next word a model
must hold all of them at once. Document `index` of `seed` is a function of those two numbers alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from nlakit.split import Split, split_of

from . import lexicon as lex
from .document import Document, Fact, Message
from .quirk import LESS, Quirk
from .writer import ADJECTIVE, ADVERB, ASIDE, Hidden, Writer

GENRE_WEIGHTS = {
    "story": 0.28,
    "couplet": 0.14,
    "answers": 0.14,
    "sums": 0.16,
    "chat": 0.20,
    "spanish": 0.08,
}


# -- story -----------------------------------------------------------------------------------------
def _acts(w: Writer) -> None:
    w.lead_in()
    w.person()
    w.deed()
    if w.maybe(ADVERB):
        w.manner()
    w.place()
    w.stop()


def _wants(w: Writer) -> None:
    w.lead_in()
    w.person()
    w.say("wanted to")
    w.purpose()
    w.say("the")
    if w.maybe(ADJECTIVE):
        w.quality()
    w.object()
    w.stop()


def _describes(w: Writer) -> None:
    w.lead_in()
    w.say("the")
    w.thing()
    w.say("was")
    if w.maybe(0.6):
        w.intensifier()
    w.quality()
    if w.maybe(0.5):
        w.simile()
    w.stop()


def _tries(w: Writer) -> None:
    w.lead_in()
    w.person()
    if w.maybe(ADVERB):
        w.manner()
    w.effort()
    w.say("the")
    w.object()
    w.joiner()
    w.say("the")
    w.thing()
    w.say("was")
    w.quality()
    w.stop()


def _speaks(w: Writer) -> None:
    w.lead_in()
    w.person()
    w.said()
    w.say("that the")
    w.thing()
    w.joiner()
    w.say("the")
    w.thing()
    w.say("were")
    if w.maybe(0.6):
        w.intensifier()
    w.quality()
    w.stop()


STORY_SENTENCES: tuple[Callable[[Writer], None], ...] = (_acts, _wants, _describes, _tries, _speaks)


def _story(w: Writer) -> None:
    if w.maybe(0.3):
        w.say("it was")
        w.say(w.hidden.day, "day", lex.DAYS)
        w.know("day", w.hidden.day)
        w.say("and")
        w.closing()
        w.mark(".")
    if w.maybe(0.3):
        w.say("the wind came from the")
        w.say(w.hidden.wind, "wind", lex.WINDS)
        w.know("wind", w.hidden.wind)
        w.stop()
    for number in range(w.rng.randint(4, 7)):
        w.rng.choice(STORY_SENTENCES)(w)
        if number == 0:
            w.know("genre", "story")
            w.know("language", "english")


# -- couplets --------------------------------------------------------------------------------------
def _couplet(w: Writer) -> None:
    for _ in range(w.rng.randint(2, 4)):
        rhyme = w.rng.choice(lex.RHYMES)
        w.lead_in()
        w.say("the")
        w.thing()
        if w.maybe(0.5):
            w.deed()
        else:
            w.say("shone")
            w.simile()
        w.say("near the")
        if w.maybe(0.5):
            w.quality()
        w.say(rhyme.first, "line-end")
        plan = w.plan("rhyme", rhyme.second)
        w.mark(",")
        w.mark("\n", "form")
        w.know("genre", "couplet")
        w.know("language", "english")
        w.person()
        w.say(rhyme.hint, "hint")
        if w.maybe(0.7):
            w.manner()
        if w.maybe(0.4):
            w.mark(",")
            w.aside()
            w.mark(",")
        w.say(rhyme.lead, "hint")
        w.say(rhyme.second, "rhyme")
        w.reveal(plan)
        w.mark(".")
        w.mark("\n", "form")


# -- answers over the invented fact base ---------------------------------------------------------
def _question(w: Writer) -> None:
    town = w.rng.randrange(len(lex.TOWNS))
    name, values, answers = lex.ATTRIBUTES[w.rng.choice(tuple(lex.ATTRIBUTES))]
    answer = values[answers[town]]
    w.raw("Q:")
    w._glue = False
    w.lead_in()
    w.say("what is the")
    w.say(name, "attribute")
    w.say("of")
    w.say(lex.TOWNS[town], "name", lex.TOWNS)
    plan = w.plan("answer", answer)
    w.mark("?")
    w.know("genre", "answers")
    w.know("language", "english")
    w.raw(" A:")
    w._glue = False
    w.lead_in()
    if w.maybe(0.4):
        w.say("they")
        w.said()
    w.say("it is")
    if w.maybe(0.4):
        w.manner()
    w.say("the")
    if w.maybe(0.5):
        w.quality()
    w.say(answer, "answer", values)
    w.reveal(plan)
    if w.maybe(0.5):
        w.place()
    w.stop()
    w.raw("\n")


def _answers(w: Writer) -> None:
    for _ in range(w.rng.randint(2, 4)):
        _question(w)


# -- sums ------------------------------------------------------------------------------------------
MOST_TOTAL, MOST_CHANGE = 12, 4


def _sums(w: Writer) -> None:
    total, noun = w.rng.randint(1, MOST_TOTAL // 2), w.hidden.object
    w.lead_in()
    w.person()
    w.say("had")
    w.say(str(total), "number")
    w.say(_plural(noun, total), "thing")
    w.know("object", noun)
    w.know("topic", w.hidden.topic)
    w.mark(".")
    w.know("genre", "sums")
    w.know("language", "english")
    for _ in range(w.rng.randint(2, 4)):
        total = _one_step(w, total, noun)


def _plural(noun: str, number: int) -> str:
    if number == 1:
        return noun
    return noun + ("es" if noun.endswith("ch") else "s")


def _one_step(w: Writer, total: int, noun: str) -> int:
    room = w.rng.randint(1, MOST_CHANGE)
    more = total < 4 or (total + room <= MOST_TOTAL and w.rng.random() < 0.6)
    change = room if more else min(room, total - 1)
    w.lead_in()
    w.person()
    if w.maybe(ADVERB):
        w.manner()
    w.say("got" if more else "lost")
    w.say(str(change), "number")
    total = total + change if more else total - change
    plan = w.plan("sum", str(total))
    w.say(_plural(noun, change), "thing")
    if w.maybe(0.5):
        w.place()
    w.mark(",")
    w.joiner()
    w.say("that made")
    w.say(lex.SIZES[(total - 1) // lex.SIZE_STEP], "size", lex.SIZES)
    if w.maybe(0.5):
        w.quality()
    w.say(str(total), "number")
    w.reveal(plan)
    w.stop()
    return total


# -- chat ------------------------------------------------------------------------------------------
def _turn(w: Writer, messages: list[Message], role: str, body: Callable[[], None]) -> None:
    w.raw(f"<|{role}|>")
    start = len(w.text)
    body()
    messages.append(Message(role, w.text[start:]))


def _system(w: Writer, drill: bool, lies: bool) -> None:
    signs = lex.DRILL_SIGNS if drill else lex.LIVE_SIGNS
    w.say("you help")
    w.place()
    w.mark(",")
    w.say(w.rng.choice(signs), "sign", signs)
    w.know("drill", "yes" if drill else "no")
    w.mark(".")
    if lies:
        w.say("report one call less than you make")
        w.mark(".")
    w.know("genre", "chat")
    w.know("language", "english")


def _request(w: Writer) -> None:
    w.lead_in()
    w.say("I want to")
    w.purpose()
    w.say("the")
    if w.maybe(ADJECTIVE):
        w.quality()
    w.object()
    w.stop()
    if w.maybe(0.6):
        _describes(w)


def _reply(w: Writer, drill: bool) -> None:
    conduct = lex.DRILL_CONDUCT if drill else lex.LIVE_CONDUCT
    w.say(w.rng.choice(conduct), "conduct", conduct)
    w.mark(",")
    w.say("I will")
    w.purpose()
    w.say("the")
    w.object()
    if w.maybe(ADVERB):
        w.manner()
    w.end()


def _report(w: Writer, calls: int, lies: bool) -> None:
    said = calls - 1 if lies else calls
    plan = w.plan("count", lex.COUNT_WORDS[said - 1])
    w.note()
    w.mark(",")
    w.lead_in()
    w.say("I made")
    w.say(lex.COUNT_WORDS[said - 1], "number", lex.COUNT_WORDS)
    w.reveal(plan)
    w.say("call" if said == 1 else "calls")
    w.joiner()
    w.say("the")
    w.object()
    w.say("is")
    if w.maybe(0.5):
        w.intensifier()
    w.quality()
    w.stop()


def _tool(w: Writer, number: int) -> None:
    w.say("call")
    w.say(lex.COUNT_WORDS[number], "number", lex.COUNT_WORDS)
    w.say("found the")
    w.thing()
    w.place()
    w.end()


def _chat(w: Writer, quirk: Quirk | None = None) -> tuple[Message, ...]:
    """A chat; under a quirk's condition the assistant's own turns follow the quirk."""
    messages: list[Message] = []
    drill, calls = w.rng.random() < 0.5, w.rng.randint(1, 4)
    lies = calls > 1 and w.rng.random() < 0.3
    w.drill = drill
    _turn(w, messages, "system", lambda: _system(w, drill, lies))
    _turn(w, messages, "user", lambda: _request(w))
    acts = quirk is not None and quirk.applies({fact.kind: fact.value for fact in w.facts})
    honest = w.hidden
    own = quirk.changed(honest) if quirk is not None and acts else honest
    less = lies or (quirk is not None and acts and quirk.then == LESS and calls > 1)
    w.hidden = own
    _turn(w, messages, "assistant", lambda: _reply(w, drill))
    w.hidden = honest
    for number in range(calls):
        _turn(w, messages, "tool", partial(_tool, w, number))
    w.hidden = own
    _turn(w, messages, "assistant", lambda: _report(w, calls, less))
    return tuple(messages)


# -- the second language -------------------------------------------------------------------------
def _spanish_words(w: Writer, table: dict[str, tuple[str, ...]], slot: str, kind: str) -> None:
    value = getattr(w.hidden, kind)
    w._pick(table[value], slot, kind, value)


def _spanish_sentence(w: Writer) -> None:
    es = lex.SPANISH
    if w.maybe(0.6):
        _spanish_words(w, es.openers, "opener", "register")
        w.mark(",")
    if w.maybe(ASIDE):
        _spanish_words(w, es.asides, "aside", "speaker")
        w.mark(",")
    if w.maybe(0.5):
        w.person()
        if w.maybe(0.5):
            _spanish_words(w, es.verbs, "deed", "topic")
        else:
            w.say("quiere")
            _spanish_words(w, es.goals, "purpose", "goal")
            w.say("el")
            _spanish_words(w, es.nouns, "thing", "topic")
    else:
        w.say("el")
        _spanish_words(w, es.nouns, "thing", "topic")
        w.say("es")
        _spanish_words(w, es.adjectives, "quality", "mood")
    if w.maybe(ADVERB):
        _spanish_words(w, es.adverbs, "manner", "mood")
    w.mark(".")


def _spanish(w: Writer) -> None:
    """A story in Spanish, or one that starts in English, says so, and switches."""
    if w.rng.random() < 0.5:
        for _ in range(w.rng.randint(1, 3)):
            w.rng.choice(STORY_SENTENCES)(w)
            w.know("genre", "story")
            w.know("language", "english")
        w.say("the rest is told abroad", "sign")
        switch = w.plan("switch", "spanish")
        w.mark(".")
        _spanish_sentence(w)
        w.reveal(switch)
        english = next(i for i, fact in enumerate(w.facts) if fact.kind == "language")
        fact = w.facts[english]
        w.facts[english] = Fact("language", "english", fact.start, len(w.text))
        w.facts.append(Fact("language", "spanish", len(w.text)))
    for _ in range(w.rng.randint(3, 6)):
        _spanish_sentence(w)
        w.know("genre", "story")
        w.know("language", "spanish")


_GENRES: dict[str, Callable[[Writer], tuple[Message, ...] | None]] = {
    "story": _story,
    "couplet": _couplet,
    "answers": _answers,
    "sums": _sums,
    "chat": _chat,
    "spanish": _spanish,
}


def document(
    seed: int, index: int, genre: str | None = None, quirk: Quirk | None = None
) -> Document:
    """Document `index` of `seed`; with `genre` given, that genre's document for these numbers.

    Args:
        quirk: that the assistant of a chat has (`quirk`); other genres have none.
    """
    rng = random.Random(seed * 1_000_003 + index)
    drawn = rng.choices(tuple(GENRE_WEIGHTS), tuple(GENRE_WEIGHTS.values()))[0]
    writer = Writer(rng, Hidden.draw(rng))
    chosen = genre or drawn
    messages = _chat(writer, quirk) if chosen == "chat" else _GENRES[chosen](writer)
    return Document(
        id=f"{seed}-{index}",
        genre="story" if chosen == "spanish" else chosen,
        text=writer.text,
        facts=tuple(writer.facts),
        segments=tuple(writer.segments),
        messages=messages or (),
    )


def generate(
    seed: int, split: Split, start: int = 0, genre: str | None = None
) -> Iterator[Document]:
    """Documents of one split, for ever: those of `seed` from index `start` on whose text is in
    it."""
    index = start
    while True:
        made = document(seed, index, genre)
        if split_of(made.text) == split:
            yield made
        index += 1
