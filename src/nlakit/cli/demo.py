"""`nlakit demo`: a few passages, read by an NLA beside what is true.

Of the storyworld the passages are documents whose state is known; of any other model they are real
texts (`examples`), and claims that can be checked against the text have a verdict each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nlakit.claims.registry import claim_system
from nlakit.console import notices, tell
from nlakit.data.corpora import CorpusDocument
from nlakit.engines.base import OnText
from nlakit.evals.checked import checked_claims, counted
from nlakit.examples import EXAMPLES, ExampleText
from nlakit.pair.conversation import Conversation
from nlakit.pair.pair import Pair
from nlakit.printable import printable
from nlakit.reading import Reading, visible
from nlakit.registry import BUNDLED as BUNDLED_NAME
from nlakit.registry import bundled_names
from nlakit.storyworld.document import Document, Fact
from nlakit.storyworld.grammar import generate
from nlakit.transcript import Message
from nlakit.worlds.storyworld.claims import STORYWORLD

from .devices import DeviceOptions
from .pairs import BUNDLED, PairOptions

ON_CPU = DeviceOptions(device="cpu")
SEED, LAST_TOKENS, TOKENS_PER_REFRESH = 20_001, 4, 8
NEXT_STEPS = """Try next:
  nlakit explain "Any text"               outside its world it scores low, and says so
  nlakit explain --last 5 --json "..."    for a program
  nlakit eval storyworld                  every number beside its floors
  nlakit storyworld sample                the world, and what is true at each point
  python recipes/minimal.py               the whole method in one short file"""


@dataclass(frozen=True)
class Passage:
    """A text cut where something can be seen, and what the world knows of it there."""

    title: str
    text: str
    truth: str


def demo(*, pair: PairOptions = BUNDLED, devices: DeviceOptions = ON_CPU) -> None:
    """Read a few passages: of the storyworld a planned rhyme, an unsaid sum and a story.

    With the NLA of another model they are the lead of a news report, a step of a proof, a Python
    function and two conversations. It runs on the CPU unless --device says otherwise: the words are
    then the same on every machine.
    """
    console, reader = Console(), pair.load(devices)
    if reader.card.claims == STORYWORLD.name:
        for passage in passages():
            show_passage(console, reader, passage)
        others = [name for name in bundled_names() if name != BUNDLED_NAME]
        steps = [*(f"  nlakit demo --nla {name:<25} real text" for name in others)]
        tell("\n".join([NEXT_STEPS, *steps]), console)
        return
    for example in EXAMPLES:
        show_example(console, reader, example)


def show_passage(console: Console, reader: Pair, passage: Passage) -> None:
    """A passage of the storyworld, what is true there, and its reading."""
    console.rule(passage.title)
    tell(passage.text, console)
    tell(f"True here: {passage.truth}", console, "dim")
    console.print(read_live(reader, passage.text))


def show_example(console: Console, reader: Pair, example: ExampleText) -> None:
    """A real text, its reading, and the verdicts on its claims where somebody can check them."""
    messages = [Message.of(role, content) for role, content in example.messages]
    asked = example.text if example.text is not None else messages
    console.rule(example.title)
    tell(shown_text(example), console)
    tell(example.note, console, "dim")
    reading = read_live(reader, asked)
    console.print(reading)
    system = claim_system(reader.card.claims)
    if system.checker is None or system.checker.states_of is None:
        return
    document = CorpusDocument(f"{example.form}-{example.id}", 0, example.text, tuple(messages))
    checked = checked_claims(reader.target, system, document, reader.encode(asked), reading)
    for row, found in zip(reading, checked, strict=True):
        lines = [
            f"{verdict}: {', '.join(said)}" for verdict, said in counted(found).items() if said
        ]
        said = f"{visible(row)}  {'; '.join(lines) or 'claims nothing'}"
        tell(said, console, "dim")


def shown_text(example: ExampleText) -> str:
    """The text; of a conversation a line a message."""
    if example.text is not None:
        return example.text
    return "\n".join(f"{role}: {content}" for role, content in example.messages)


def passages() -> list[Passage]:
    """The three texts: held-out documents, so no training has seen them."""
    rhyme, rhyme_fact = _document_with("couplet", "rhyme")
    total, total_fact = _document_with("sums", "sum")
    story = next(generate(SEED, "heldout", genre="story"))
    return [
        _before("A rhyme that is planned", rhyme, rhyme_fact),
        _before("A sum that nobody has said", total, total_fact),
        _passage("A story", story, _sentence_end(story.text, 2)),
    ]


def read_live(pair: Pair, text: Conversation) -> Reading:
    """Read the end of a text; in a terminal the words appear on stderr as they are written."""
    console = notices()
    if not console.is_terminal or console.quiet:
        return pair.explain(text, last=LAST_TOKENS)
    drafts: dict[int, str] = {}
    options = {"console": console, "transient": True, "auto_refresh": False}
    with Live(_draft_table(drafts), **options) as live:  # pyright: ignore[reportArgumentType]
        return pair.explain(text, last=LAST_TOKENS, on_text=_drafting(live, drafts))


def _drafting(live: Live, drafts: dict[int, str]) -> OnText:
    calls = 0

    def on_text(row: int, sample: int, words: str) -> None:
        nonlocal calls
        calls += 1
        drafts[row] = words
        if calls % TOKENS_PER_REFRESH == 0:
            live.update(_draft_table(drafts), refresh=True)

    return on_text


def _draft_table(drafts: dict[int, str]) -> Table:
    table = Table(title="reading …", expand=True)
    table.add_column("explanation so far")
    for row in sorted(drafts):
        table.add_row(Text(printable(drafts[row])))
    return table


def _document_with(genre: str, kind: str) -> tuple[Document, Fact]:
    """The first held-out document that plans `kind` after its opening, and the plan."""
    for document in islice(generate(SEED, "heldout", genre=genre), 100):
        plans = [fact for fact in document.facts if fact.kind == kind and fact.end is not None]
        if len(plans) > 1:
            return document, plans[1]
    raise AssertionError(f"no {genre} with a second {kind} in 100 documents")


def _before(title: str, document: Document, fact: Fact) -> Passage:
    """The text up to the word that says the planned fact, without it."""
    assert fact.end is not None
    return _passage(title, document, len(document.text[: fact.end - len(fact.value)].rstrip()))


def _passage(title: str, document: Document, char_end: int) -> Passage:
    state = document.state(char_end)
    facts = [
        f"{kind} {value}" + (" (planned, unsaid)" if kind in state.planned else "")
        for kind, value in state.facts.items()
    ]
    return Passage(title, document.text[:char_end], ", ".join(facts))


def _sentence_end(text: str, number: int) -> int:
    """Where sentence `number` ends, its full stop included."""
    return len(".".join(text.split(".")[:number])) + 1
