"""Memory between training steps."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's `mallopt`.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """From now on this process keeps the memory that it frees; returns whether it could be told so.

    A training step frees all that its next one asks for. By default the C library gives large
    pieces back to the system, which must fill each page with zeros again: a tenth of a step on a
    CPU. The process then stays as large as its largest step was. glibc only.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1)) and bool(mallopt(MMAP_MAX, 0))
