"""The chat interfaces that teachers speak: a question as a request, a reply as an answer.

Pure: nothing here opens a connection. API keys come from the environment and go into headers only.
"""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol

from pydantic import Field

from nlakit.config import FrozenModel
from nlakit.errors import ConfigError, RemoteError

Outcome = Literal["complete", "truncated", "refused"]


class Answer(FrozenModel):
    """What a chat model said, and what it counted."""

    text: str
    outcome: Outcome
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)


class MalformedReply(RemoteError):
    """A reply that is not what the interface promises."""


class ChatApi(Protocol):
    """One vendor's way of asking."""

    vendor: str
    model: str
    base_url: str
    max_tokens: int

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key."""
        ...

    @property
    def path(self) -> str:
        """Path below `base_url` that takes a question."""
        ...

    def headers(self) -> dict[str, str]:
        """Headers with the key. Raises ConfigError where the key is needed and not set."""
        ...

    def body(self, instruction: str, message: str) -> dict[str, Any]:
        """The JSON of a question."""
        ...

    def answer(self, reply: Any) -> Answer:
        """The answer in a reply's JSON. Raises MalformedReply."""
        ...


class AnthropicApi:
    """Anthropic's messages (https://docs.anthropic.com/en/api/messages)."""

    vendor = "anthropic"
    path = "/v1/messages"
    key_variable = "ANTHROPIC_API_KEY"

    def __init__(self, model: str, base_url: str | None = None, max_tokens: int = 400) -> None:
        self.model, self.max_tokens = model, max_tokens
        self.base_url = base_url or "https://api.anthropic.com"

    def headers(self) -> dict[str, str]:
        """The key and the version of the interface."""
        return {"x-api-key": api_key(self.key_variable), "anthropic-version": "2023-06-01"}

    def body(self, instruction: str, message: str) -> dict[str, Any]:
        """The instruction as system prompt, the message as the one user turn."""
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "system": instruction,
            "messages": [{"role": "user", "content": message}],
        }

    def answer(self, reply: Any) -> Answer:
        """Text blocks joined; `max_tokens` is truncated and `refusal` is refused."""
        try:
            text = "".join(part["text"] for part in reply["content"] if part["type"] == "text")
            outcomes: dict[str, Outcome] = {"max_tokens": "truncated", "refusal": "refused"}
            usage = reply["usage"]
            return Answer(
                text=text,
                outcome=outcomes.get(reply["stop_reason"], "complete"),
                input_tokens=usage["input_tokens"],
                output_tokens=usage["output_tokens"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise malformed(self.vendor, reply) from error


class OpenAICompatibleApi:
    """Chat completions, as OpenAI, vLLM, llama.cpp and OpenRouter serve them.

    The key is asked for only where the server is OpenAI's own: a local one needs none.
    """

    vendor = "openai"
    path = "/chat/completions"
    key_variable = "OPENAI_API_KEY"

    def __init__(self, model: str, base_url: str | None = None, max_tokens: int = 400) -> None:
        self.model, self.max_tokens = model, max_tokens
        self.needs_key = base_url is None
        self.base_url = base_url or "https://api.openai.com/v1"

    def headers(self) -> dict[str, str]:
        """The key as bearer, where there is one."""
        if not self.needs_key and not os.environ.get(self.key_variable):
            return {}
        return {"Authorization": f"Bearer {api_key(self.key_variable)}"}

    def body(self, instruction: str, message: str) -> dict[str, Any]:
        """The instruction as system turn, the message as user turn."""
        # OpenAI's newer models know only the new name of the limit; other servers know the old.
        limit = "max_completion_tokens" if self.needs_key else "max_tokens"
        turns = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": message},
        ]
        return {"model": self.model, limit: self.max_tokens, "messages": turns}

    def answer(self, reply: Any) -> Answer:
        """The first choice; `length` is truncated, a filter or a refusal is refused."""
        try:
            choice = reply["choices"][0]
            message, usage = choice["message"], reply["usage"]
            refused = choice["finish_reason"] == "content_filter" or bool(message.get("refusal"))
            truncated = choice["finish_reason"] == "length"
            return Answer(
                text=message["content"] or "",
                outcome="refused" if refused else "truncated" if truncated else "complete",
                input_tokens=usage["prompt_tokens"],
                output_tokens=usage["completion_tokens"],
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise malformed(self.vendor, reply) from error


def api_key(variable: str) -> str:
    """A key from the environment. Raises ConfigError, naming the variable and no value."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"No API key: set the environment variable {variable}.")
    return key


def malformed(vendor: str, reply: Any) -> MalformedReply:
    """The error for a reply that lacks what the interface promises."""
    return MalformedReply(f"The {vendor} server's reply cannot be read: {str(reply)[:200]!r}.")
