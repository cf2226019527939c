"""Chat templates are programs from a checkpoint: here they run with an end.

Jinja's sandbox keeps a template from the machine, not from running for ever. A render may take so
many lines, by the size of what it renders, and hold no text beyond a bound; where it does not end,
the messages are refused as by any other failure of a template.
"""

from __future__ import annotations

import sys
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
MAX_TEXT_CHARS = 1 << 26
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
    left = num_lines

    def on_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Endless(f"it goes on for more than {num_lines:,} steps")
        for value in frame.f_locals.values():
            if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
                raise _Endless(f"it holds more than {MAX_TEXT_CHARS:,} characters")
        return on_line

    def on_call(frame: FrameType, _event: str, _: Any) -> Any:
        return on_line if frame.f_code.co_filename == COMPILED_NAME else None

    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(None)
