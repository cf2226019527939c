"""What a verb is to read: a text, or a conversation as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from nlakit.console import notice
from nlakit.errors import InputError
from nlakit.transcript import parse_messages

SHAPE = 'Expected [{"role": "user", "content": …}, …], or an object with "messages" and "tools".'


@Parameter(name="*")
@dataclass(frozen=True)
class ChatOptions:
    """How a conversation is rendered, as `apply_chat_template` knows it."""

    messages: bool | None = None
    """The text is JSON messages; by default it is, where it looks so."""

    add_generation_prompt: Annotated[bool, Parameter(negative=())] = False
    """Of messages: end with the start of an answer."""

    continue_final_message: Annotated[bool, Parameter(negative=())] = False
    """Of messages: leave the last one open, to be continued."""

    enable_thinking: bool | None = None
    """Of messages: what the chat template is told of thinking; by default nothing."""

    def fields(self) -> dict[str, Any]:
        """What was asked for, by `Pair.explain`'s names."""
        asked = {
            "add_generation_prompt": self.add_generation_prompt or None,
            "continue_final_message": self.continue_final_message or None,
            "enable_thinking": self.enable_thinking,
        }
        return {name: value for name, value in asked.items() if value is not None}


class Request(NamedTuple):
    """A text or messages, and the keyword arguments of `Pair.explain` that go with them."""

    content: str | list[dict[str, Any]]
    fields: dict[str, Any]


AS_GIVEN = ChatOptions()


def read_request(text: str | None, file: Path | None, chat: ChatOptions = AS_GIVEN) -> Request:
    """What to read, from the argument, the file or standard input.

    Raises:
        InputError: none or two of them, not UTF-8, or no messages where these were asked for.
    """
    given = read_text(text, file)
    if not given.strip():
        raise InputError("The text is empty. Give at least one word.")
    raw = None if chat.messages is False else parse_chat(given, strict=chat.messages is True)
    if raw is None:
        if chat.fields():
            named = ", ".join(f"--{name.replace('_', '-')}" for name in chat.fields())
            raise InputError(f"{named} belongs to messages; the text is none. Give JSON messages.")
        return Request(given, {})
    if chat.messages is None:
        said = f"Read as a conversation of {len(raw['messages'])} messages; --no-messages: as text."
        notice(said, "dim")
    tools = {"tools": raw["tools"]} if raw.get("tools") else {}
    return Request(raw["messages"], {**chat.fields(), **tools})


def parse_chat(text: str, strict: bool) -> dict[str, Any] | None:
    """The messages that a text holds as JSON; None where it is something else.

    Raises:
        InputError: where `strict`, instead of None; and for tools that are no list of objects.
    """
    try:
        raw = json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
        found = raw if isinstance(raw, dict) else {"messages": raw}
        parse_messages(found.get("messages"))
    except RecursionError as error:
        raise InputError("The JSON is nested too deeply to be a conversation.") from error
    except ValueError as error:  # InputError is one
        if strict:
            raise InputError(f"--messages: {error} {SHAPE}") from error
        return None
    _check_tools(found.get("tools"))
    return found


def _check_tools(tools: object) -> None:
    if tools is None or (isinstance(tools, list) and all(isinstance(each, dict) for each in tools)):
        return
    raise InputError(f'"tools" must be a list of JSON schemas, found {tools!r}.')


def read_text(text: str | None, file: Path | None) -> str:
    """The text from the argument, the file or standard input. Raises InputError for none or two."""
    if text is not None and file is not None:
        raise InputError("Both a text and --file were given. Give one of them.")
    try:
        if file is not None:
            # A byte order mark at the start of a file is no token of the text.
            return file.read_text(encoding="utf-8-sig")
        if text is not None and text != "-":
            return text
        if text is None and sys.stdin.isatty():
            raise InputError("No text was given. Give one, or --file, or pipe it in.")
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        source = file or "standard input"
        raise InputError(f"{source} is not UTF-8 text: {error}. Convert it first.") from error
