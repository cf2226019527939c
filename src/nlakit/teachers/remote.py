"""A teacher behind a chat server: many questions at once, each paid for once.

Which questions are open is decided by the cache, so a run that was killed, or that ran out of its
budget, goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nlakit.errors import RemoteError

from .base import Place, TeacherLabel
from .batches import BatchClient
from .cache import AnswerCache, question_key
from .chat import Answer, ChatApi
from .cost import Budget, Estimate, estimate
from .http import JsonClient, Patience
from .prompt import LABELS, Task

KEY_REFUSED = (401, 403)


class RemoteTeacher:
    """Asks `api` for labels, or for whatever `task` is.

    Args:
        budget: shared by all calls; questions that do not fit are not asked.
        concurrency: questions in flight at once.
        batch: ask through the server's batch interface, at half the price and within a day.
        on_answer: called after each answer that was paid for.
    """

    def __init__(
        self,
        api: ChatApi,
        cache: AnswerCache,
        budget: Budget,
        *,
        concurrency: int = 8,
        patience: Patience | None = None,
        batch: bool = False,
        on_answer: Callable[[], None] | None = None,
        task: Task = LABELS,
    ) -> None:
        self.api, self.cache, self.budget = api, cache, budget
        self.concurrency, self.batch = concurrency, batch
        self.patience = patience or Patience()
        self.on_answer = on_answer or (lambda: None)
        self.task = task
        self.model_name = f"{api.vendor}:{api.model}"
        self.name = task.teacher(self.model_name)
        self.retries = 0

    def key(self, place: Place) -> str:
        """Hash of the model, the instruction and the text."""
        return question_key(self.model_name, self.task.instruction, self.task.message(place.text))

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position."""
        return self.label_many([place])[0]

    def label_many(self, places: Sequence[Place]) -> list[TeacherLabel]:
        """The labels of the positions, in their order.

        Raises:
            BudgetSpent: some were not asked; the answers so far are in the cache.
            RemoteError: the server refused for good, or kept failing.
        """
        try:
            run_to_end(self._fill(self.open_questions(places)))
        except RemoteError as error:
            if error.status not in KEY_REFUSED:
                raise
            advice = f"Is the key in {self.api.key_variable} right, and allowed to ask this?"
            raise RemoteError(f"{error} {advice}", error.status) from error
        answers = [self.cache.get(self.key(place)) for place in places]
        assert None not in answers, "every question was answered"
        return [self.task.read(answer) for answer in answers if answer is not None]

    def open_questions(self, places: Sequence[Place]) -> dict[str, str]:
        """Key and message of each question that is not in the cache, none twice."""
        found = {self.key(place): self.task.message(place.text) for place in places}
        return {key: text for key, text in found.items() if self.cache.get(key) is None}

    def estimate(self, places: Sequence[Place]) -> Estimate:
        """What the open questions will take; nothing is asked."""
        prompts = [self.task.instruction + text for text in self.open_questions(places).values()]
        return estimate(prompts, self.budget.price)

    def announcement(self, places: Sequence[Place]) -> str:
        """In words, what the open questions of `places` will take and what was paid so far."""
        found = self.estimate(places)
        cost = "no price given" if found.dollars is None else f"about ${found.dollars:.2f}"
        return (
            f"{found.questions} questions to ask of {len(places)} rows: {found.input_tokens:,} "
            f"tokens to read, {found.output_tokens:,} to write, {cost}; paid so far "
            f"${self.budget.spent:.2f}."
        )

    async def _fill(self, questions: dict[str, str]) -> None:
        if not questions:
            return
        async with JsonClient(self.api.base_url, self.api.headers(), self.patience) as client:
            try:
                if self.batch:
                    batches = BatchClient(
                        self.api,
                        self.cache,
                        client,
                        self.budget,
                        self.model_name,
                        self.task.instruction,
                    )
                    await batches.fill(questions)
                else:
                    await self._ask_all(client, questions)
            finally:
                self.retries += client.retries

    async def _ask_all(self, client: JsonClient, questions: dict[str, str]) -> None:
        """Ask with a fixed number of workers; what is in flight at a failure is still kept."""
        waiting = iter(questions.items())

        async def worker() -> None:
            for key, message in waiting:
                await self._ask(client, key, message)

        await run_to_the_end([worker() for _ in range(min(self.concurrency, len(questions)))])

    async def _ask(self, client: JsonClient, key: str, message: str) -> None:
        instruction = self.task.instruction
        dollars = self.budget.worst_case(instruction + message, self.api.max_tokens)
        self.budget.reserve(dollars)
        answer: Answer | None = None
        try:
            reply = await client.post(self.api.path, self.api.body(instruction, message))
            answer = self.api.answer(reply)
            self.cache.put(key, self.model_name, answer)
        finally:
            self.budget.release(dollars, answer)
        self.on_answer()


async def run_to_the_end(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run workers at once. When one fails the others finish, since their answers are being paid
    for; then the first failure is raised."""
    results = await asyncio.gather(*workers, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(asyncio.run, work).result()
