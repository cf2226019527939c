"""A server under test: `nlakit serve` as a process of its own, and what it uses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Served(NamedTuple):
    """A running server.

    Attributes:
        log: its stderr.
    """

    url: str
    pid: int
    log: Path

    def usage(self) -> dict[str, float]:
        """Memory now and at its highest, in MB, and open descriptors; empty without /proc."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.is_file():
            return {}
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return {
            "resident_mb": round(int(lines["VmRSS"].split()[0]) / 1024, 1),
            "peak_mb": round(int(lines["VmHWM"].split()[0]) / 1024, 1),
            "descriptors": len(list(Path(f"/proc/{self.pid}/fd").iterdir())),
        }

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def tracebacks(self) -> int:
        """How many exceptions its log shows."""
        return self.log.read_text(encoding="utf-8", errors="replace").count("Traceback (most")

    def log_bytes(self) -> int:
        return self.log.stat().st_size


@contextmanager
def serve(nla: str, *options: str) -> Iterator[Served]:
    """`nlakit serve` on a free port, with a data directory of its own."""
    with tempfile.TemporaryDirectory() as made:
        log = Path(made) / "stderr.txt"
        environment = {**os.environ, "NLAKIT_DATA_DIR": str(Path(made) / "data")}
        command = [sys.executable, "-m", "nlakit", "serve", "--port", "0", "--no-browser"]
        command += ["--nla", nla, *options]
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process,
        ):
            try:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                if not url:
                    raise SystemExit(f"the server did not start:\n{log.read_text()}")
                yield Served(url, process.pid, log)
            finally:
                process.terminate()
