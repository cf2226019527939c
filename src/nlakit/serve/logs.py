"""Log lines that cannot be multiplied at will by who sends requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PER_MINUTE = 5
"""Lines of one kind; what comes beyond it is counted."""
MINUTE_S = 60.0
MOST_KINDS = 512


class Repeated(logging.Filter):
    """Lets a few lines a minute of each kind through, and says how many it held back.

    A kind is a logger, a level and the place in the code; an exception's type is part of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = _kind_of(record)
        time_now = self._clock()
        started, count = self._kinds.get(kind, (time_now, 0))
        if time_now - started >= MINUTE_S:
            if count > PER_MINUTE:
                _say_how_many(record, count - PER_MINUTE)
            started, count = time_now, 0
        if len(self._kinds) >= MOST_KINDS and kind not in self._kinds:
            self._kinds.clear()
        self._kinds[kind] = (started, count + 1)
        return count < PER_MINUTE


def _kind_of(record: logging.LogRecord) -> tuple[object, ...]:
    error = record.exc_info[0] if record.exc_info else None
    return (record.name, record.levelno, record.pathname, record.lineno, error)


def _say_how_many(record: logging.LogRecord, number: int) -> None:
    record.msg = f"{record.getMessage()} (and {number} more like it, a minute before)"
    record.args = ()


def set_up_logging(level: int = logging.WARNING) -> None:
    """Log to stderr, in one line each where there is no exception."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(Repeated())
    logging.basicConfig(level=level, handlers=[handler])
