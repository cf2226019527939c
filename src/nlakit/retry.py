"""When a call over HTTP is retried, and how long to wait before it: one policy for every client.

A server's own Retry-After comes first; else the wait doubles, half of it random, so that many
clients do not come back at the same moment.
"""

from __future__ import annotations

import email.utils
import time
from typing import Any

from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random
from tenacity.wait import wait_base

from nlakit.errors import RemoteError

LONGEST_WAIT_S = 120.0


class TryAgain(RemoteError):
    """A call that failed in a way that may pass.

    Attributes:
        retry_after: the header of that name; None where there was none, or no answer at all.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after: str | None = None
    ) -> None:
        super().__init__(message, status)
        self.retry_after = retry_after


class WaitAsAsked(wait_base):
    """Seconds: what the server asked for, else `first * 2 ** retries`, half of it random."""

    def __init__(self, first: float, longest: float = LONGEST_WAIT_S) -> None:
        self.first, self.longest = first, longest

    def __call__(self, retry_state: RetryCallState) -> float:
        failure = None if retry_state.outcome is None else retry_state.outcome.exception()
        asked = seconds_asked(failure.retry_after) if isinstance(failure, TryAgain) else None
        if asked is not None:
            return min(asked, self.longest)
        full = min(self.longest, self.first * 2 ** (retry_state.attempt_number - 1))
        return full / 2 + wait_random(0, full / 2)(retry_state)


def policy(tries: int, first_wait: float, longest_wait: float = LONGEST_WAIT_S) -> dict[str, Any]:
    """Arguments of `tenacity.Retrying` and `AsyncRetrying`: `TryAgain` is tried `tries` times."""
    return {
        "stop": stop_after_attempt(tries),
        "wait": WaitAsAsked(first_wait, longest_wait),
        "retry": retry_if_exception_type(TryAgain),
        "reraise": True,
    }


def seconds_asked(value: str | None) -> float | None:
    """Seconds in a Retry-After header, a number or a date; None where it says neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
