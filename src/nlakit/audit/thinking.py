"""Chains of thought: what a thinking section says beside what the NLA reads behind it, and the
answer with and without a change of one thought.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from nlakit.engines.base import MAX_NEW_TOKENS, sampling_for
from nlakit.errors import InputError
from nlakit.pair.conversation import ChatFields, Conversation, Prompt, options_of, prepare
from nlakit.pair.pair import Pair
from nlakit.pair.steer import STRENGTH, Edit, Steered, steer_at

from .positions import Selection, Sheet, choose
from .words import content_words, said_share

SECTION = "thinking"
TAG = re.compile(r"</?\w+>")


class Thought(NamedTuple):
    """The end of one sentence of a thinking section.

    Attributes:
        position: of the token that is read.
        says: the sentence itself.
        explanation: what the NLA reads there.
        said: share of the explanation's content words that the text so far says; None: it has
            none.
        unsaid: its content words that nobody has said: what the thinking may hide, or the NLA
            invents. Low fidelity speaks for the second.
    """

    position: int
    message_index: int | None
    says: str
    explanation: str
    fidelity: float | None
    said: float | None
    unsaid: tuple[str, ...]


class ChainOfThought(NamedTuple):
    """All thoughts of a conversation, in order."""

    thoughts: tuple[Thought, ...]
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `nlakit thinking --json` prints it."""
        thoughts = [each._asdict() for each in self.thoughts]
        return {"thoughts": thoughts, "notices": list(self.notices)}


def chain_of_thought(pair: Pair, messages: Conversation, **chat: Any) -> ChainOfThought:
    """Read the end of every sentence of a conversation's thinking sections.

    Raises:
        InputError: as `Pair.explain`; or there is no thinking section.
    """
    prompt = _prompt(pair, messages, chat)
    places = choose(Sheet(prompt.encoded, prompt.spans), Selection(thinking=True), "thinking")
    vectors_PD = pair.engine.extract(prompt.encoded, places)
    answers, scores = pair.answers(vectors_PD, sampling_for(1, None, MAX_NEW_TOKENS, 0))
    thoughts, start = [], -1
    for place, answer, score in zip(places, answers, scores, strict=True):
        text = prompt.encoded.text
        begin = _sentence_start(prompt, place, start)
        end = prompt.encoded.offsets[place][1]
        so_far = text[:end]
        says = TAG.sub("", text[begin:end]).strip()
        start = place
        if not says:  # the tags around the thinking
            continue
        unsaid = content_words(answer.text) - content_words(so_far)
        thoughts.append(
            Thought(
                position=place,
                message_index=prompt.spans[place].message_index,
                says=says,
                explanation=answer.text,
                fidelity=None if score.baseline == "none" else score.fidelity,
                said=said_share(answer.text, so_far),
                unsaid=tuple(sorted(unsaid)),
            )
        )
    return ChainOfThought(tuple(thoughts), prompt.notices)


def _prompt(pair: Pair, messages: Conversation, chat: dict[str, Any]) -> Prompt:
    fields: ChatFields = chat  # pyright: ignore[reportAssignmentType]
    prompt = prepare(pair.target, messages, options_of(fields))
    if not any(span.section == SECTION for span in prompt.spans):
        raise InputError(
            "The conversation has no thinking section that the target's chat template writes. Give "
            "messages whose assistant has reasoning_content or a <think> section."
        )
    return prompt


def _sentence_start(prompt: Prompt, place: int, before: int) -> int:
    """The character at which the sentence that ends at a token begins."""
    index, first = prompt.spans[place].message_index, place
    while (
        first - 1 > before
        and prompt.spans[first - 1].section == SECTION
        and prompt.spans[first - 1].message_index == index
    ):
        first -= 1
    return prompt.encoded.offsets[first][0]


def answer_after(
    pair: Pair,
    messages: Conversation,
    position: int,
    edit: Edit,
    alpha: float = STRENGTH,
    max_new_tokens: int = 60,
    *,
    once: bool = False,
    **chat: Any,
) -> Steered:
    """Change one thought inside a thinking section, and let the target answer anew.

    Args:
        position: a token of a thinking section, counted in the conversation.
        edit, alpha, once: as in `Pair.steer`.

    Returns:
        The answer without and with the change; both start where the thinking ends.

    Raises:
        InputError: as `Pair.steer`; or the token is in no thinking section.
    """
    prompt = _prompt(pair, messages, chat)
    ids, spans = prompt.encoded.ids, prompt.spans
    if not 0 <= position < len(ids) or spans[position].section != SECTION:
        raise InputError(
            f"Token {position} is in no thinking section. Take one that `nlakit thinking` names."
        )
    vectors_1D = pair.engine.extract(prompt.encoded, [position])
    ((answer,),) = pair.engine.verbalize(vectors_1D, sampling_for(1, None, MAX_NEW_TOKENS, 0))
    head = ids[: _answer_start(prompt, position)]
    return steer_at(
        pair.engine,
        pair.target,
        head,
        position,
        answer.text,
        edit,
        alpha,
        max_new_tokens,
        once=once,
    )


def _answer_start(prompt: Prompt, position: int) -> int:
    """The token at which the answer of the same message begins; the end where it has none yet."""
    index = prompt.spans[position].message_index
    for place in range(position + 1, len(prompt.spans)):
        span = prompt.spans[place]
        if span.message_index != index or span.section in ("content", "tool_call", "footer"):
            return place
    return len(prompt.spans)
