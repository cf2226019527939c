"""Chat templates are programs from a checkpoint: here they run with an end.

Jinja's sandbox keeps a template from the machine, not from running for ever. A render may take so
many lines, by the size of what it renders, and hold and write no text beyond a bound; where it does
not end, the messages are refused as by any other failure of a template. What a single expression
computes is looked at when it is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from nlakit.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TEMPLATE_CHARS = 1 << 20
"""The longest real ones have some tens of thousands."""
LINES, LINES_A_MESSAGE, LINES_A_CHARACTER = 50_000, 5000, 4
"""Of compiled Python. Real templates take about a hundred lines a message; some look at each
character."""
MAX_CPU_S = 5.0
"""Of the thread's processor time; real templates take milliseconds."""
MAX_CHARS = 1 << 23
"""That a template holds in one variable, or writes; items of a list, too."""
LOOK_EVERY = 4
"""Lines: seldom enough to cost little, and too often for a text to grow far beyond the bound."""
FAILURES = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, MemoryError),
    *(TypeError, ValueError, AssertionError),
)
"""What a program may raise, beside Jinja's own errors."""
COMPILED_NAME = "<template>"
"""What Jinja calls the code that it makes of a template."""


class TemplateRefusal(InputError):
    """A chat template that is too long, does not end, or refuses what it is given."""


class _Endless(RuntimeError):
    """It took too many lines, or held too long a text."""


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], **options: Any
) -> str:
    """The messages as the tokenizer's chat template writes them.

    Raises:
        TemplateRefusal: whatever the template raises, or it is too long, or does not end.
    """
    import jinja2  # not before a template is rendered: contracts are read without it

    if _num_chars(tokenizer.chat_template) > MAX_TEMPLATE_CHARS:
        raise TemplateRefusal(f"it has more than {MAX_TEMPLATE_CHARS:,} characters")
    size = len(repr((messages, options.get("tools"))))
    try:
        with _bounded(LINES + LINES_A_MESSAGE * len(messages) + LINES_A_CHARACTER * size):
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except _Endless as error:
        raise TemplateRefusal(str(error)) from None
    except (jinja2.TemplateError, *FAILURES) as error:
        raise TemplateRefusal(f"{type(error).__name__}: {error}") from error


def _num_chars(template: Any) -> int:
    if isinstance(template, dict):
        return sum(len(each) for each in template.values())
    return len(template or "")


@contextmanager
def _bounded(num_lines: int) -> Iterator[None]:
    """Count the lines of templates that this thread runs, unless a debugger traces it already."""
    if sys.gettrace() is not None:
        yield
        return
    count = _Count(num_lines)
    sys.settrace(count.on_call)
    try:
        yield
    finally:
        sys.settrace(None)


class _Count:
    """What a render may still do; a trace function of Python."""

    def __init__(self, num_lines: int) -> None:
        self.num_lines = self.lines_left = num_lines
        self.chars_left = MAX_CHARS
        self.end = time.thread_time() + MAX_CPU_S

    def on_call(self, frame: FrameType, _event: str, _: Any) -> Any:
        return self.on_line if frame.f_code.co_filename == COMPILED_NAME else None

    def on_line(self, frame: FrameType, event: str, written: Any) -> Any:
        self.lines_left -= 1
        if event == "return" and isinstance(written, str):  # of a generator: each piece it writes
            self.chars_left -= len(written)
        if self.lines_left % LOOK_EVERY == 0:
            self._look(frame)
        return self.on_line

    def _look(self, frame: FrameType) -> None:
        if self.lines_left < 0:
            raise _Endless(f"it goes on for more than {self.num_lines:,} steps")
        if time.thread_time() > self.end:
            raise _Endless(f"it takes more than {MAX_CPU_S:g} s")
        if self.chars_left < 0 or any(map(_is_large, frame.f_locals.values())):
            raise _Endless(f"it holds or writes more than {MAX_CHARS:,} characters")


def _is_large(value: Any) -> bool:
    """Whether a variable of a template, or of one of its namespaces, is too much to hold."""
    if isinstance(value, str | list | tuple):
        return len(value) > MAX_CHARS
    # The attributes of a `namespace(...)`, which has no public way to list them.
    attributes = getattr(value, "_Namespace__attrs", None)
    return isinstance(attributes, dict) and any(map(_is_large, attributes.values()))
