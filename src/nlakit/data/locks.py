"""One writer at a time in an output directory."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nlakit.errors import ResumeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = ".nlakit.lock"
TEMPORARY = re.compile(r"\..+\.\d+\.(tmp|old)")
"""Names under which files and directories are written before they get their own."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks, as some network ones; nothing is refused there."""


@contextmanager
def locked(directory: str | Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Keep every other process from writing into `directory` while the block is open.

    The lock is the operating system's, on a file that stays: it ends with the process that holds
    it, however that ends, so a killed run leaves none behind. What a killed run has left half
    written is removed.

    Args:
        name: of the file; parts of a directory that are written side by side have locks of their
            own.

    Raises:
        ResumeError: another process is writing there.
    """
    path = Path(directory) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        _take(file, path.parent)
        remove_temporaries(path.parent)
        try:
            yield
        finally:
            # Empty, so that the same work leaves the same files whoever did it.
            file.truncate(0)


def _take(file: IO[str], directory: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip()
        process = f"process {holder}" if holder else "another process"
        raise ResumeError(
            f"Asked to write into {directory}; {process} is writing there. Wait until it has "
            "ended, or give another directory."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def remove_temporaries(directory: Path) -> None:
    """Remove what a killed writer has left half written in a directory that nobody writes into."""
    for path in directory.iterdir():
        if not TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
