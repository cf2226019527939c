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
from typing import Any

import nlakit
from nlakit.config import write_text_atomic

OPENAPI = Path(nlakit.__file__).parent / "serve" / "openapi.json"
MODULES = {
    "Reading": ("nlakit.reading",),
    "Pairs": ("nlakit.pair.pair", "nlakit.pair.load", "nlakit.pair.steer"),
    "Models and sites": (
        "nlakit.core.site", "nlakit.models.target", "nlakit.models.verbalizer",
        "nlakit.models.reconstructor",
    ),
    "Engines": ("nlakit.engines.base", "nlakit.engines.local", "nlakit.engines.remote"),
    "Measures": ("nlakit.core.fidelity", "nlakit.core.losses", "nlakit.core.scale"),
    "Errors": ("nlakit.errors",),
}  # fmt: skip
"""Documented modules by heading. A module that is not there is left out, and a test says so."""

Json = Mapping[str, Any]


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
    from nlakit.cli import app

    text = app.generate_docs(output_format="markdown", recursive=True, include_hidden=False)
    before, _, after = text.partition("## Table of Contents")
    _, _, commands_onward = after.partition("**Commands**")
    return f"{before.replace('# nlakit', '# Commands', 1)}**Commands**{commands_onward}"


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
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(document, path, method, operation)
    return "\n".join(lines) + "\n"


def _operation(document: Json, path: str, method: str, operation: Json) -> Iterator[str]:
    yield f"## {method.upper()} {path}"
    yield ""
    if operation.get("description") or operation.get("summary"):
        yield _prose(operation.get("description") or operation["summary"])
        yield ""
    for parameter in operation.get("parameters", []):
        told = _prose(parameter.get("description", ""))
        yield f"- `{parameter['name']}` ({parameter['in']}): {_type(parameter['schema'])}. {told}"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body:
        yield from _fields(document, body.get("schema", {}))
    answers = operation.get("responses", {})
    yield "**Answers.** " + "; ".join(
        f"{status}: {_prose(answer.get('description', ''))}" for status, answer in answers.items()
    )
    yield ""


def _fields(document: Json, schema: Json) -> Iterator[str]:
    found = _resolved(document, schema)
    if not found.get("properties"):
        return
    required = set(found.get("required", ()))
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for name, field in found["properties"].items():
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        told = _prose(field.get("description", "")).replace("|", "\\|")
        yield f"| `{name}` | {_type(field)} | {default} | {told} |"
    yield ""


def _resolved(document: Json, schema: Json) -> Json:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


def _prose(text: str) -> str:
    return " ".join(text.split())


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
    summary = (inspect.getdoc(value) or "").partition("\n")[0]
    role = "class" if inspect.isclass(value) else "func"
    return f"{{py:{role}}}`nlakit.{name} <{home}.{name}>`: {summary}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
