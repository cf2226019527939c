"""Writes the reference pages that are read off the code: commands, HTTP interface, Python.

    python docs/reference.py DIRECTORY

`conf.py` calls it before each build. The pages are not committed, so they cannot be stale.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import nlakit
from nlakit.config import write_text_atomic
from nlakit.serve.reference import Json, Operation, operations

OPENAPI = Path(nlakit.__file__).parent / "serve" / "openapi.json"
MODULES = {
    "Reading": ("nlakit.reading",),
    "Pairs": ("nlakit.pair.pair", "nlakit.pair.load", "nlakit.pair.steer", "nlakit.card"),
    "Models and sites": (
        "nlakit.core.site", "nlakit.models.target", "nlakit.models.verbalizer",
        "nlakit.models.reconstructor",
    ),
    "Engines": (
        "nlakit.engines.base", "nlakit.engines.local", "nlakit.engines.remote",
        "nlakit.engines.asynchronous",
    ),
    "Measures": ("nlakit.core.fidelity", "nlakit.core.losses", "nlakit.core.scale"),
    "Errors": ("nlakit.errors",),
}  # fmt: skip
"""Documented modules by heading. A module that is not there is left out, and a test says so."""


def write(directory: Path) -> None:
    """Write `cli.md`, `http.md` and `api.md`."""
    pages = {"cli": commands(), "http": http(json.loads(OPENAPI.read_text())), "api": api()}
    for name, text in pages.items():
        path = directory / f"{name}.md"
        # An unchanged page keeps its date, so that Sphinx does not build it again.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text_atomic(path, text)


# -- commands --------------------------------------------------------------------------------------
def commands() -> str:
    """Every command with its options, from the command line's own definitions."""
    from nlakit.cli import EXIT_STATUSES, app

    text = app.generate_docs(output_format="markdown", recursive=True, include_hidden=False)
    before, _, after = text.partition("## Table of Contents")
    _, _, commands_onward = after.partition("**Commands**")
    head = before.replace("# nlakit", "# Commands", 1)
    return f"{head}{manners(EXIT_STATUSES)}**Commands**{commands_onward}"


def manners(exit_statuses: Mapping[int, str]) -> str:
    """What holds for every command."""
    statuses = "\n".join(f"| {status} | {said} |" for status, said in exit_statuses.items())
    return (
        "`-q` (`--quiet`) silences progress and notices of every command; `-V` prints the version. "
        "stdout holds results only. `nlakit completion bash` (`zsh`, `fish`) prints a completion "
        f"script.\n\n| exit status | |\n|---:|---|\n{statuses}\n\n"
    )


# -- HTTP ------------------------------------------------------------------------------------------
def http(document: Json) -> str:
    """Every path of the server with its fields, from `openapi.json`."""
    lines = [
        "# HTTP interface",
        "",
        "`nlakit serve` answers these requests. Paths under `/v1/` are nlakit's own; the others "
        "are what existing NLA clients speak. The server gives the same as `/openapi.json`.",
        "",
    ]
    for found in operations(document):
        lines += _operation(found)
    return "\n".join(lines) + "\n"


def _operation(found: Operation) -> Iterator[str]:
    yield f"## {found.method} {found.path}"
    yield ""
    if found.told:
        yield found.told
        yield ""
    for each in found.parameters:
        yield f"- `{each.name}` ({each.place}): {each.type}. {each.told}"
    if found.fields:
        yield "| field | type | default | |"
        yield "|---|---|---|---|"
        for each in found.fields:
            default = each.default if each.default == "required" else f"`{each.default}`"
            told = each.told.replace("|", "\\|")
            yield f"| `{each.name}` | {each.type} | {default} | {told} |"
        yield ""
    yield "**Answers.** " + "; ".join(f"{status}: {told}" for status, told in found.answers)
    yield ""


# -- Python ----------------------------------------------------------------------------------------
def api() -> str:
    """What `nlakit` exports, then the modules behind it, from their docstrings."""
    lines = ["# Python", "", "```{eval-rst}", ".. py:module:: nlakit", "```", ""]
    lines += ["`import nlakit` costs milliseconds; these names load on first use.", ""]
    lines += [f"- {_exported(name)}" for name in nlakit.__all__ if not name.startswith("__")]
    for heading, modules in MODULES.items():
        lines += ["", f"## {heading}", ""]
        for module in modules:
            lines += [
                f"### `{module}`",
                "",
                "```{eval-rst}",
                f".. automodule:: {module}",
                "```",
                "",
            ]
    return "\n".join(lines) + "\n"


def _exported(name: str) -> str:
    value = getattr(nlakit, name)
    home = getattr(value, "__module__", "nlakit")
    summary = (inspect.getdoc(value) or "").partition("\n")[0].replace("::", ":")
    role = "class" if inspect.isclass(value) else "func"
    return f"{{py:{role}}}`nlakit.{name} <{home}.{name}>`: {summary}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
