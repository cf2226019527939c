"""Anthropic's message batches (https://docs.anthropic.com/en/api/creating-message-batches).

A batch is noted in the cache as soon as the server has named it: a run killed while it waits
fetches that batch and sends nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from nlakit.errors import RemoteError

from .cache import AnswerCache
from .chat import Answer, ChatApi, malformed
from .cost import Budget
from .http import JsonClient

PATH = "/v1/messages/batches"
MAX_QUESTIONS = 10_000
"""Per batch: well under the interface's limits of 100 000 questions and 256 MB."""
POLL_SECONDS = 30.0


class BatchClient:
    """Asks many questions as batches and waits for the answers."""

    def __init__(
        self,
        api: ChatApi,
        cache: AnswerCache,
        client: JsonClient,
        budget: Budget,
        teacher: str,
        instruction: str,
    ) -> None:
        self.api, self.cache, self.client = api, cache, client
        self.budget, self.teacher, self.instruction = budget, teacher, instruction
        self.poll_seconds = min(POLL_SECONDS, client.patience.timeout)

    async def fill(self, questions: dict[str, str]) -> None:
        """Fetch what an earlier run sent, then ask what is still open.

        Raises:
            BudgetSpent: the next batch could cost more than is left.
            RemoteError: the server refused, or did not answer some of the questions.
        """
        for batch in self.cache.pending_batches(self.teacher):
            await self._collect(batch)
        open_now = [item for item in questions.items() if self.cache.get(item[0]) is None]
        rest = iter(open_now)
        while chunk := list(islice(rest, MAX_QUESTIONS)):
            await self._send(dict(chunk))
        missing = [key for key in questions if self.cache.get(key) is None]
        if missing:
            raise RemoteError(
                f"{len(missing)} of {len(questions)} questions failed in their batch. Run again "
                "to ask those; the others are kept."
            )

    async def _send(self, questions: dict[str, str]) -> None:
        costs = [
            self.budget.worst_case(self.instruction + text, self.api.max_tokens)
            for text in questions.values()
        ]
        self.budget.reserve(sum(costs))
        try:
            requests = [
                {"custom_id": key, "params": self.api.body(self.instruction, text)}
                for key, text in questions.items()
            ]
            made = await self.client.post(PATH, {"requests": requests})
            batch = str(_field(made, "id"))
            self.cache.add_batch(batch, self.teacher)
            await self._collect(batch)
        finally:
            self.budget.release(sum(costs))

    async def _collect(self, batch: str) -> None:
        """Wait for a batch and keep its answers."""
        while True:
            state = await self.client.get(f"{PATH}/{batch}")
            if _field(state, "processing_status") == "ended":
                break
            await asyncio.sleep(self.poll_seconds)
        # The path is built here, not taken from the reply: the key goes to no other host.
        lines = await self.client.request("GET", f"{PATH}/{batch}/results")
        answers = list(self._answers(lines))
        self.cache.finish_batch(batch, self.teacher, answers)
        for _, answer in answers:
            self.budget.release(0.0, answer)

    def _answers(self, lines: str) -> Iterator[tuple[str, Answer]]:
        for line in lines.splitlines():
            row = json.loads(line)
            result = _field(row, "result")
            if result.get("type") == "succeeded":
                yield str(_field(row, "custom_id")), self.api.answer(result.get("message"))


def _field(reply: Any, name: str) -> Any:
    if not isinstance(reply, dict) or name not in reply:
        raise malformed("anthropic", reply)
    return reply[name]
