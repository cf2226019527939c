"""A scan of 500 chats, whole and killed with SIGKILL: the same rows, none lost and none twice.

    python -m benchmarks.audit_scan DIRECTORY > benchmarks/results/audit/scan.json

A part that is finished is kept, so a run that was stopped continues. Positions a second are of the
processor's time, which another load does not change as it does the clock's.
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .audit_chats import drill_chats, write_chats

KILLS = (2, 9)
"""Files of explanations after which the scan is killed, counted from the project's beginning."""
POLL_S = 0.02
Rows = list[tuple[str, int, int, str]]


def main() -> None:
    """Run what is left and print the figures."""
    directory = Path(sys.argv[1])
    chats = directory / "chats.jsonl"
    if not chats.exists():
        write_chats(chats, drill_chats())
    whole = _whole(directory, chats)
    killed = _killed(directory, chats)
    rows, again = rows_of(directory / "whole"), rows_of(directory / "killed")
    places = [row[:3] for row in again]
    made = {
        "transcripts": whole["transcripts"],
        "positions": whole["positions"],
        "cpu_seconds": whole["cpu_seconds"],
        "positions_per_cpu_second": whole["positions"] / whole["cpu_seconds"],
        "kills": killed["kills"],
        "rows": len(again),
        "rows_lost": len(set(rows) - set(again)),
        "rows_twice": len(places) - len(set(places)),
        "equal": sorted(rows) == sorted(again),
    }
    print(json.dumps(made, indent=2))


def _command(project: Path, chats: Path) -> list[str]:
    return [sys.executable, "-m", "nlakit", "scan", str(project), str(chats), "--json"]


def _whole(directory: Path, chats: Path) -> dict[str, Any]:
    record = directory / "whole.json"
    if not record.exists():
        before = _cpu_seconds()
        made = subprocess.run(
            _command(directory / "whole", chats), stdout=subprocess.PIPE, check=True
        )
        told = json.loads(made.stdout)
        record.write_text(json.dumps({**told, "cpu_seconds": _cpu_seconds() - before}))
    return json.loads(record.read_text())


def _killed(directory: Path, chats: Path) -> dict[str, Any]:
    record, project = directory / "killed.json", directory / "killed"
    if not record.exists():
        kills = []
        for files in KILLS:
            kills.append({"files": files, "rows_in_index": _kill(project, chats, files)})
        subprocess.run(_command(project, chats), stdout=subprocess.DEVNULL, check=True)
        record.write_text(json.dumps({"kills": kills}))
    return json.loads(record.read_text())


def _kill(project: Path, chats: Path, files: int) -> int:
    """Scan until there are so many files of explanations, then kill; returns the rows kept."""
    child = subprocess.Popen(_command(project, chats), stdout=subprocess.DEVNULL)
    while child.poll() is None and _files(project) < files:
        time.sleep(POLL_S)
    if child.poll() is not None:
        raise SystemExit(f"The scan ended before it had {files} files.")
    child.kill()
    child.wait()
    return len(rows_of(project))


def _files(project: Path) -> int:
    return len(list(project.glob("batches/*/explanations/explanations-*.parquet")))


def rows_of(project: Path) -> Rows:
    """Transcript, position, sample and explanation of every reading."""
    if not (project / "index.sqlite").exists():
        return []
    query = "SELECT transcript, position, sample, explanation FROM readings ORDER BY id"
    with sqlite3.connect(project / "index.sqlite") as database:
        return list(database.execute(query))


def _cpu_seconds() -> float:
    """Of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
