"""One question, one answer: alpaca's instruction, input and output; a prompt and a completion."""

from __future__ import annotations

from typing import Any

from nlakit.transcript import Message, Transcript, parse_messages

from .base import Row, RowFormat, not_one, own_id, scalars, with_system

ANSWERS = ("completion", "response", "output", "answer")


def matches_alpaca(row: Row) -> bool:
    return isinstance(row.get("instruction"), str) and "output" in row


def read_alpaca(row: Row, where: str) -> list[Transcript]:
    given = [row["instruction"], row.get("input")]
    question = "\n\n".join(each for each in given if isinstance(each, str) and each)
    return _chat(row, question, row["output"], where, ("instruction", "input", "output"))


def matches_prompt(row: Row) -> bool:
    return isinstance(row.get("prompt"), str | list) and any(name in row for name in ANSWERS)


def read_prompt(row: Row, where: str) -> list[Transcript]:
    name = next(each for each in ANSWERS if each in row)
    return _chat(row, row["prompt"], row[name], where, ("prompt", name))


def _chat(
    row: Row, question: Any, answer: Any, where: str, used: tuple[str, ...]
) -> list[Transcript]:
    asked = _messages("user", question, where)
    messages = with_system(row.get("system"), [*asked, *_messages("assistant", answer, where)])
    return [Transcript(own_id(row, "id"), tuple(messages), (), scalars(row, (*used, "system")))]


def _messages(role: str, said: Any, where: str) -> list[Message]:
    if isinstance(said, list):
        return list(parse_messages(said, where))
    if not isinstance(said, str):
        raise not_one(said, where, "text or a list of messages")
    return [Message.parse({"role": role, "content": said}, where)]


ALPACA = RowFormat("alpaca", matches_alpaca, read_alpaca)
PROMPT = RowFormat("prompt-completion", matches_prompt, read_prompt)
