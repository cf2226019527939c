"""What labels cost: an estimate before the first question, and a budget that is never passed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from nlakit.config import FrozenModel
from nlakit.errors import ConfigError, UserError

from .chat import Answer

BYTES_PER_TOKEN = 4
"""English; the usual rule of thumb, for estimates."""
MIN_BYTES_PER_TOKEN = 2
"""For what is set aside before a question: no text in common use takes more tokens than this."""
LABEL_TOKENS = 150
"""An explanation of 80 to 100 words, with its tags."""
MILLION = 1_000_000


class BudgetSpent(UserError):
    """The next question could cost more than is left. What was answered is kept."""


class Price(FrozenModel):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    @classmethod
    def parse(cls, text: str) -> Price:
        """From "3,15". Raises ConfigError."""
        try:
            given, written = (float(part) for part in text.split(","))
            return cls(input=given, output=written)
        except ValueError as error:
            raise ConfigError(
                f"--price {text!r}: expected two numbers, dollars per million tokens read and "
                "written, such as 3,15."
            ) from error

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for these tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / MILLION


class Estimate(FrozenModel):
    """What asking about some texts would take."""

    questions: int
    input_tokens: int
    output_tokens: int
    dollars: float | None


def estimate(prompts: Sequence[str], price: Price | None) -> Estimate:
    """The likely tokens of asking `prompts`, each the whole of what is sent."""
    read = sum(len(prompt.encode()) // BYTES_PER_TOKEN for prompt in prompts)
    written = LABEL_TOKENS * len(prompts)
    dollars = None if price is None else price.of(read, written)
    return Estimate(
        questions=len(prompts), input_tokens=read, output_tokens=written, dollars=dollars
    )


class Budget:
    """Dollars spent and set aside. A question's worst case is set aside before it is asked, so
    the limit holds whatever comes back.

    Args:
        limit: dollars in all; None for no limit.
        price: needed when there is a limit.
        spent: what earlier runs paid out of the same limit.
    """

    def __init__(self, limit: float | None, price: Price | None, spent: float = 0.0) -> None:
        if limit is not None and price is None:
            raise ConfigError("A budget needs a price: give --price READ,WRITTEN beside --budget.")
        self.limit, self.price, self.spent, self.reserved = limit, price, spent, 0.0

    def worst_case(self, prompt: str, max_tokens: int) -> float:
        """Dollars of a question whose answer runs to its limit."""
        if self.price is None:
            return 0.0
        return self.price.of(-(-len(prompt.encode()) // MIN_BYTES_PER_TOKEN), max_tokens)

    def reserve(self, dollars: float) -> None:
        """Set a worst case aside. Raises BudgetSpent when it does not fit."""
        if self.limit is not None and self.spent + self.reserved + dollars > self.limit:
            raise BudgetSpent(
                f"The budget of ${self.limit:g} is spent: ${self.spent:.4f} paid, and the next "
                f"question could cost ${dollars:.4f}. All answers are kept; run again with a "
                "larger --budget, and nothing is paid for twice."
            )
        self.reserved += dollars

    def release(self, dollars: float, answer: Answer | None = None) -> None:
        """Give back what was set aside, and pay for the answer if there was one."""
        self.reserved -= dollars
        if answer is not None and self.price is not None:
            self.spent += self.price.of(answer.input_tokens, answer.output_tokens)
