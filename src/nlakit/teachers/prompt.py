"""What a chat model is asked for, and how its answer becomes a label.

The facts are those of `method.md` §3: the teacher sees the text up to the place and not the vector;
it names two or three features, the most important first and the last about the final token and what
must follow. An answer without its closing tag or with fewer than two features is a refusal, with
the reason, never a label.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .base import TeacherLabel
from .chat import Answer

INSTRUCTION = """\
You will see the beginning of a document, cut off at some token. A language model has just read \
that last token. Describe what such a model would be keeping in mind there, from the text alone.

Write two or three short paragraphs, separated by an empty line. Each paragraph is one feature, in \
10 to 20 words of plain English. Put the one that matters most for what comes next first: the \
kind of document, its subject, who speaks and to whom, what has been set up and not resolved. The \
last paragraph is always about the very end: quote the last few words, and say what has to follow \
them and why.

State only what the text supports. Do not say "the text", "the passage" or "the author"; do not \
hedge and do not add a preface. Use 100 words at most.

Answer in this form and write nothing else:
<explanation>
first feature

second feature

the last words, and what has to follow
</explanation>"""

OPEN_TAG, CLOSE_TAG = "<explanation>", "</explanation>"
MIN_FEATURES = 2
MAX_TEXT_CHARS = 24_000
"""The teacher sees the end of a longer text: what lies far behind seldom matters, and costs."""


def user_message(text: str) -> str:
    """The turn that shows a text. What stands in it is quoted, not to be obeyed."""
    shown = text[-MAX_TEXT_CHARS:]
    return f"<document>\n{shown}\n</document>\n\nThe document stops at its last character above."


def to_label(answer: Answer) -> TeacherLabel:
    """The label in an answer, or the reason why there is none."""
    if answer.outcome != "complete":
        return TeacherLabel(None, refusal=answer.outcome)
    _, tag, rest = answer.text.partition(OPEN_TAG)
    body, closed, _ = rest.partition(CLOSE_TAG)
    if not tag or not closed:
        return TeacherLabel(None, refusal="no explanation in tags")
    features = [" ".join(part.split()) for part in re.split(r"\n\s*\n", body) if part.strip()]
    if len(features) < MIN_FEATURES:
        return TeacherLabel(None, refusal="fewer than two features")
    return TeacherLabel("\n\n".join(features))


@dataclass(frozen=True)
class Task:
    """What a chat model is asked to make of a text.

    Attributes:
        instruction: the same for all texts.
        message: the turn that shows a text.
        read: what was made of it, or why nothing was.
        max_tokens: of an answer.
        name: what tells labels of this task from those of `LABELS`; "" for that one.
    """

    instruction: str
    message: Callable[[str], str]
    read: Callable[[Answer], TeacherLabel]
    max_tokens: int = 400
    name: str = ""

    def teacher(self, model: str) -> str:
        """What a model is called as teacher of this task."""
        return f"{model} ({self.name})" if self.name else model


LABELS = Task(INSTRUCTION, user_message, to_label)
"""To label a document's beginning."""

BRIEF_INSTRUCTION = "What is this text about? Answer in one short sentence."
BRIEF_TEXT_CHARS, BRIEF_WORDS = 500, 40
"""A small model loses the question behind a long text, and itself in a long answer."""
_NO_END = "".join(rf"(?<!\b{short})" for short in ("Mr", "Mrs", "Ms", "Dr", "St", "[A-Z]"))
_SENTENCE = re.compile(rf"\S.*?(?:{_NO_END}\.|[!?])(?=[\"'”’)]*(?:\s|$))[\"'”’)]*", re.DOTALL)
"""A full stop behind a title or an initial ends none."""


def brief_message(text: str) -> str:
    """The turn that shows the end of a text, without tags: small models repeat them."""
    return text[-BRIEF_TEXT_CHARS:]


def to_brief_label(answer: Answer) -> TeacherLabel:
    """The first sentence of an answer, or the reason why there is none.

    What stands behind it is left out, so an answer that was cut off later has one as well.
    """
    if answer.outcome == "refused":
        return TeacherLabel(None, refusal=answer.outcome)
    found = _SENTENCE.search(answer.text)
    if found is None:
        return TeacherLabel(None, refusal="no whole sentence")
    words = found[0].split()
    if len(words) > BRIEF_WORDS:
        return TeacherLabel(None, refusal=f"a sentence of more than {BRIEF_WORDS} words")
    return TeacherLabel(" ".join(words))


BRIEF = Task(BRIEF_INSTRUCTION, brief_message, to_brief_label, max_tokens=48, name="brief")
"""To label a document's beginning by one sentence: for models too small for `LABELS`."""
LABELLING = (LABELS, BRIEF)
