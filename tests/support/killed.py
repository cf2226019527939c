"""`nlakit` killed with SIGKILL at a moment that a test names, however busy the machine is.

    python killed.py PATTERN COUNT WORDS...

runs `nlakit WORDS...` and kills its whole process group, workers included, as soon as COUNT files
whose paths match PATTERN got their names; of a `metrics.jsonl`: as soon as it has COUNT lines.
Worker processes run this file, too, before they begin.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path


def killed(pattern: str, count: int, words: list[str]) -> None:
    """Run `nlakit` until it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, pattern, str(count), *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"


def die() -> None:
    """End this process and all that it has started, or was started by."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def count_files(pattern: str, count: int) -> None:
    """Count what `os.replace` names."""
    replace, names = os.replace, []

    def counted(source, target, **options) -> None:
        replace(source, target, **options)
        names.extend([target] if fnmatch(os.fspath(target), pattern) else [])
        if len(names) == count:
            die()

    os.replace = counted


def count_lines(pattern: str, count: int) -> None:
    """Count what training logs."""
    from nlakit.train.run import RunDirectory

    log = RunDirectory.log

    def counted(self: RunDirectory, record) -> None:
        log(self, record)
        path = self.path / "metrics.jsonl"
        if fnmatch(str(path), pattern) and path.read_text().count("\n") >= count:
            die()

    RunDirectory.log = counted


if __name__ in ("__main__", "__mp_main__"):
    counting = count_lines if Path(sys.argv[1]).name == "metrics.jsonl" else count_files
    counting(sys.argv[1], int(sys.argv[2]))

if __name__ == "__main__":
    from nlakit.cli import run

    sys.exit(run(sys.argv[3:]))
