"""The result file: one section after another, each with the code and machine it was measured on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nlakit.config import write_text_atomic

from .process import ROOT

DIRECTORY = Path(__file__).resolve().parent / "results"
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", *BF16_FLAGS, "asimd")
LIBRARIES = ("torch", "transformers", "numpy")
MEASURED_CODE = ("src/nlakit/**/*.py", "benchmarks/*.py")


def path_of(device: str) -> Path:
    """The committed file of a kind of device."""
    return DIRECTORY / f"{device}.json"


def processor_kind() -> str:
    """Which file this machine's figures belong to: those of two kinds are never mixed."""
    return "cpu-bf16" if has_bf16_units() else "cpu"


def machine() -> dict[str, Any]:
    """What decides the figures, without naming the machine."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instructions": [flag for flag in ISA_FLAGS if flag in _cpu_flags()],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def has_bf16_units() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32."""
    return not _cpu_flags().isdisjoint(BF16_FLAGS)


def fingerprint() -> str:
    """Of the code and the machine: a section measured under another one is measured again."""
    digest = hashlib.sha256(json.dumps(machine()).encode())
    for path in sorted(_files(MEASURED_CODE)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Sections as they are measured, written after each, so that a killed run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sections: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.sections = json.loads(path.read_text(encoding="utf-8"))["sections"]

    def is_current(self, name: str, of: str) -> bool:
        """Whether a section was measured under the fingerprint `of`."""
        return self.sections.get(name, {}).get("fingerprint") == of

    def put(self, name: str, facts: dict[str, Any], of: str) -> None:
        """Keep a section and write the file."""
        self.sections[name] = {**facts, "fingerprint": of}
        whole = {"machine": machine(), "sections": self.sections}
        text = json.dumps(rounded(whole), indent=1, ensure_ascii=False)
        write_text_atomic(self.path, text + "\n")


def rounded(value: Any, digits: int = 7) -> Any:
    """Floats cut to the digits that mean something."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return value


def _files(patterns: Iterable[str]) -> Iterable[Path]:
    return (path for pattern in patterns for path in ROOT.glob(pattern))


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return set(found.partition(":")[2].split())
