"""When a call over HTTP is made again, and after how long."""

from __future__ import annotations

import pytest
import tenacity

from nlakit.errors import RemoteError
from nlakit.retry import LONGEST_WAIT_S, TryAgain, policy, seconds_asked


def waits_of(failures: list[RemoteError], tries: int) -> list[float]:
    """Seconds waited while a call fails with each of these, in turn."""
    waits: list[float] = []
    left = iter(failures)

    def call() -> None:
        failure = next(left, None)
        if failure is not None:
            raise failure

    tenacity.Retrying(**policy(tries, 1.0), sleep=waits.append)(call)
    return waits


def test_waits_double_to_a_limit_and_half_is_random():
    waits = waits_of([TryAgain("busy")] * 12, 13)
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits[:6]))
    assert min(waits[8:]) >= LONGEST_WAIT_S / 2 and max(waits) <= LONGEST_WAIT_S


def test_a_server_that_says_when_is_obeyed_up_to_the_limit():
    asked = [TryAgain("busy", 429, "7"), TryAgain("busy", 429, "100000")]
    assert waits_of(asked, 3) == [7.0, LONGEST_WAIT_S]


def test_what_is_refused_for_good_is_not_tried_again():
    with pytest.raises(RemoteError, match="no such model"):
        waits_of([RemoteError("no such model", 404)], 5)


def test_the_last_failure_is_the_one_that_is_told():
    with pytest.raises(TryAgain, match="second"):
        waits_of([TryAgain("first"), TryAgain("second")], 2)


@pytest.mark.parametrize(
    "header, seconds",
    [(None, None), ("2.5", 2.5), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert seconds_asked(header) == seconds
