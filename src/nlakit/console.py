"""Where nlakit speaks: results on stdout, and notices beside them on stderr, which -q silences.

In a terminal sentences wrap at its width; a path stays in one piece, so that it can be copied.
Elsewhere a sentence is one line, for `grep`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

QUIET_VARIABLE = "NLAKIT_QUIET"
"""Set: no notices and no progress. Worker processes inherit it."""


def notices(*, shown: bool = True) -> Console:
    """stderr, for notices and progress; silent where -q was given, or not `shown`."""
    return Console(stderr=True, quiet=not shown or bool(os.environ.get(QUIET_VARIABLE)))


def notice(text: str, style: str = "") -> None:
    """Say something beside the results."""
    tell(text, notices(), style)


def tell(text: str, console: Console | None = None, style: str = "") -> None:
    """Print sentences, by default on stdout. Brackets stay brackets."""
    console = console or Console()
    if console.is_terminal:
        text = "\n".join(_wrapped(line, console.width) for line in text.split("\n"))
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    """A line broken between words; rich would fold a word that is wider than the terminal."""
    whole = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    return "\n".join(textwrap.wrap(line, width, **whole))  # pyright: ignore[reportArgumentType]


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """What runs inside says nothing beside its results, where `quiet`."""
    before = os.environ.get(QUIET_VARIABLE)
    if quiet:
        os.environ[QUIET_VARIABLE] = "1"
    try:
        yield
    finally:
        if quiet:
            os.environ.pop(QUIET_VARIABLE)
            os.environ.update({} if before is None else {QUIET_VARIABLE: before})
