"""Assertions that wait: what the page shows follows what was done to it, but not at once.

A test here never looks once at something that a click or a key has just changed: on a slow machine
it would look too early. `expect` waits for what a locator holds, `until` for any other value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from playwright.sync_api import Page, expect

T = TypeVar("T")
PATIENCE_S = 30
"""How long a busy machine may take; a page that is right takes milliseconds."""

expect.set_options(timeout=PATIENCE_S * 1000)


def until(page: Page, value: Callable[[], T], wanted: T) -> None:
    """Wait until `value()` equals what is wanted; AssertionError with what it was instead."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := value()) != wanted and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert found == wanted


__all__ = ["expect", "until"]
