"""Imports point one way, and looking at the package costs no torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "nlakit"

# Lower rooms know nothing of higher ones. Rooms on one line may use each other, without a circle.
ORDER = (
    {"errors", "config", "console", "files", "printable"},
    {
        "registry",
        "retry",
        "fidelity_scale",
        "contract",
        "card",
        "claim",
        "examples",
        "reading",
        "split",
        "storyworld",
        "transcript",
    },  # fmt: skip
    {"core"},
    {"models"},
    {"engines", "data"},
    {"pair", "claims"},
    {"teachers", "train", "evals", "sae"},
    {"audit"},
    {"worlds"},
    {"serve", "publish"},
    {"cli", "__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
GROUND = ORDER[0] | ORDER[1]
KNOW_THE_STORYWORLD = {"storyworld", "worlds", "cli"}
HEAVY = {"torch", "transformers", "tokenizers", "safetensors"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree: ast.AST, package: str) -> set[str]:
    """Full names of everything a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def type_checking_removed(source: str) -> ast.AST:
    """The tree without `if TYPE_CHECKING:` blocks, which never run."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return tree


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path, *, running: bool = False) -> set[str]:
    source = path.read_text(encoding="utf-8")
    parts = path.relative_to(PACKAGE.parent).parent.parts
    return imported_names(
        type_checking_removed(source) if running else ast.parse(source), ".".join(parts)
    )


def rooms_used(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("nlakit.")}
    return {name for name in names if name in LEVEL} - {room_of(path)}


@pytest.mark.parametrize("source", ["from . import config", "from .config import x"])
def test_relative_imports_are_seen(source):
    assert any(n.startswith("nlakit.config") for n in imported_names(ast.parse(source), "nlakit"))
    parent = source.replace("from .", "from ..")
    assert any(n.startswith("nlakit.config") for n in imported_names(ast.parse(parent), "nlakit.x"))


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in sources()} <= LEVEL.keys()


def test_imports_point_one_way():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {used}"
        for path in sources()
        for used in rooms_used(path)
        if LEVEL[used] > LEVEL[room_of(path)]
    ]
    assert wrong == []


def test_rooms_form_no_circle():
    graph: dict[str, set[str]] = {}
    for path in sources():
        graph.setdefault(room_of(path), set()).update(rooms_used(path))
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= graph.keys()


def test_no_other_room_imports_the_storyworld():
    wrong = {
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        if room_of(path) not in KNOW_THE_STORYWORLD
        and any(
            name.startswith(("nlakit.storyworld", "nlakit.worlds.storyworld"))
            for name in imports_of(path)
        )
    }
    assert wrong == set()


def test_ground_floor_imports_no_torch():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sources()
        if room_of(path) in GROUND
        for name in imports_of(path, running=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def modules_after(code: str) -> set[str]:
    """Names of the modules loaded once `code` has run in a fresh interpreter."""
    tail = "import sys; print('\\nMODULES', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(result.stdout.rpartition("MODULES")[2].split())


def test_importing_nlakit_loads_no_torch():
    loaded = modules_after("import nlakit")
    assert "nlakit" in loaded
    assert not loaded & HEAVY


def test_reading_loads_nothing_that_only_training_on_many_devices_needs():
    loaded = modules_after("import nlakit.pair.load")
    assert "nlakit.engines.local" in loaded
    assert not loaded & {"torch.distributed.fsdp", "peft", "vllm", "ray", "trl"}


def test_help_loads_no_torch():
    code = (
        "import contextlib, runpy, sys\n"
        "sys.argv = ['nlakit', '--help']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    runpy.run_module('nlakit', run_name='__main__')"
    )
    loaded = modules_after(code)
    assert "nlakit.cli" in loaded
    assert not loaded & HEAVY
