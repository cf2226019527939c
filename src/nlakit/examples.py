"""Short texts to try an NLA of a language model on; each shows another thing that it may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExampleText:
    """A text or a conversation, and why it is worth reading.

    Attributes:
        case: what can be looked for, in a few words.
        note: the same in a sentence, for a page.
        text: None where there are messages.
        messages: (role, content), of a conversation.
        form: the kind of text, as `claims.text` names it; "" where it is none of them.
    """

    id: str
    title: str
    case: str
    note: str
    text: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    form: str = ""


EXAMPLES = (
    ExampleText(
        "news",
        "The lead of a news report",
        "names and subject",
        "Which names and which subject does the activation hold at the end of a news lead?",
        "LISBON, March 3 - The ferry company Atlantica said on Tuesday that it would cancel all "
        "crossings to the islands until Friday, after two of its captains refused to sail in the "
        "storm that has closed the harbour since Sunday. The mayor of Lisbon, Teresa",
        form="web",
    ),
    ExampleText(
        "proof",
        "A step of a proof",
        "what follows",
        "The next step is forced. Does the activation hold what follows?",
        "Suppose that n is even, so that n = 2k for some integer k. Then the square of n is 4 "
        "times the square of k, which is 2 times an integer. Hence the square of n is also",
        form="science",
    ),
    ExampleText(
        "code",
        "A function in Python",
        "what is open",
        "An open bracket, an open body: does the activation hold that this is code, and where "
        "it stands?",
        'def mean_of(numbers):\n    """The arithmetic mean of a list; 0 of an empty one."""\n'
        "    if not numbers:\n        return 0\n    total = 0\n    for number in numbers:\n"
        "        total +=",
        form="code",
    ),
    ExampleText(
        "unsaid",
        "A chat whose goal is left unsaid",
        "what is asked for",
        "The user never says that a present is wanted. Is that anywhere in the readings?",
        messages=(
            ("user", "My sister turns nine on Saturday and she talks about nothing but planets."),
            ("assistant", "How lovely! Does she have a telescope, or books about space?"),
            ("user", "Only one old book. I have about twenty euros and no idea."),
        ),
        form="chat",
    ),
    ExampleText(
        "premise",
        "A question with a wrong premise",
        "what the answer will say",
        "Rome is no city of France. Does the activation hold that before the answer begins?",
        messages=(("user", "In which part of France does the city of Rome lie?"),),
        form="chat",
    ),
)
