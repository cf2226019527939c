"""Which checkpoints, adapters and conversations are read, and which are refused: by the tests.

    python -m benchmarks.compatibility         run them, write benchmarks/results/compatibility.json
    python -m benchmarks.compatibility Hub     the areas whose names begin so; others are kept

docs/compatibility.md shows the file. Each row is a test: its name says what happens. A row
stands there only if every case of it passed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlakit.config import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compatibility.json"
AREAS = {
    "Weights": ("tests/parity/test_weights.py", "tests/unit/test_weight_files.py"),
    "LoRA adapters": ("tests/parity/test_adapter_files.py",),
    "GGUF files": ("tests/parity/test_gguf.py",),
    "Token ids, endings and markers": (
        "tests/parity/test_text_ids.py", "tests/unit/test_tokenizer_files.py",
        "tests/unit/test_endings.py", "tests/unit/test_marker.py",
    ),
    "Conversations": ("tests/unit/test_chat.py",),
    "Transcript formats": ("tests/unit/test_formats.py",),
    "Vectors": ("tests/unit/test_vectors.py",),
    "Hub downloads": ("tests/unit/test_hub.py", "tests/unit/test_hub_download.py"),
}  # fmt: skip

Row = dict[str, Any]


def main(prefixes: list[str]) -> int:
    """Run the tests of every area that is asked for; returns the exit status."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if prefixes else {}
    found = {
        area: rows_of(paths)
        if area.startswith(tuple(prefixes) or "") or area not in kept
        else kept[area]
        for area, paths in AREAS.items()
    }
    failed = [row["test"] for rows in found.values() for row in rows if row["failed"]]
    write_text_atomic(RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{sum(map(len, found.values()))} tests, failed: {failed or 'none'}")
    return int(bool(failed))


def rows_of(paths: tuple[str, ...]) -> list[Row]:
    """The tests of some files, each with its cases and how many failed."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *paths]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return collected([(case.get("name", ""), is_failed(case)) for case in cases])


def is_failed(case: ElementTree.Element) -> bool:
    """Whether a case did not pass; a skipped one has shown nothing."""
    return any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))


def collected(cases: list[tuple[str, bool]]) -> list[Row]:
    """Cases gathered by their test, in order."""
    rows: dict[str, Row] = {}
    for name, failed in cases:
        test, _, case = name.partition("[")
        row = rows.setdefault(test, {"test": test, "cases": [], "failed": 0})
        if case:
            row["cases"].append(case.removesuffix("]"))
        row["failed"] += failed
    return list(rows.values())


def table(text: str) -> str:
    """The page's tables, from the result file."""
    areas: Mapping[str, list[Row]] = json.loads(text)
    lines = []
    for area, rows in areas.items():
        lines += [f"### {area}", "", "| what happens | cases |", "|---|--:|"]
        lines += [
            f"| {sentence(row['test'])} | {max(1, len(row['cases']))} |"
            for row in rows
            if not row["failed"]
        ]
        lines.append("")
    return "\n".join(lines)


def sentence(test: str) -> str:
    """A test's name as words."""
    words = test.removeprefix("test_").replace("_", " ")
    return words[0].upper() + words[1:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
