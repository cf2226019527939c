"""Small files of others, read whole: a bound on their size, and nothing that never ends.

A directory that somebody downloaded may hold a pipe (which would be waited for), a link to a
device (which has no end), or a description of gigabytes.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from nlakit.errors import UserError

MAX_BYTES = 16 << 20
"""Of one description. The largest real ones, tokenizers aside, are kilobytes."""


def read_small_text(
    path: str | Path, error_type: type[UserError], max_bytes: int = MAX_BYTES
) -> str:
    """The text of a file in UTF-8.

    Raises:
        UserError: of `error_type`; there is none, it is a device, pipe or directory, too large, or
            not UTF-8.
    """
    path = Path(path)
    try:
        check_file(path, error_type, max_bytes)
        with path.open(encoding="utf-8") as file:
            text = file.read(max_bytes + 1)  # files of /proc have no size, and may have no end
    except OSError as error:
        raise error_type(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise error_type(f"{path} is not text in UTF-8: {error}.") from error
    if len(text) > max_bytes:
        raise error_type(f"{path} has more than {max_bytes:,} bytes. Is it the right one?")
    return text


def check_file(path: Path, error_type: type[UserError], max_bytes: int = MAX_BYTES) -> None:
    """Whether a file that another library opens has an end.

    Raises:
        UserError: of `error_type`; it is a device, pipe or directory, or too large.
        OSError: there is none.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise error_type(f"{path} is not a file but a device, pipe or directory.")
    if found.st_size > max_bytes:
        raise error_type(
            f"{path} has {found.st_size:,} bytes; at most {max_bytes:,} are read of such a "
            "file. Is it the right one?"
        )


def read_json_object(
    path: str | Path, error_type: type[UserError], max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: of `error_type`, as `read_small_text` does; or it holds something else.
    """
    text = read_small_text(path, error_type, max_bytes)
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise error_type(f"{path} is nested too deeply to be read.") from error
    except ValueError as error:
        raise error_type(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise error_type(f"{path} must hold a JSON object, found {type(raw).__name__}.")
    return raw
