"""What `openapi.json` says, as a page of our own at `/docs`, and for the site.

The usual page for it loads its script from another host, which this server's policy forbids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

Json = Mapping[str, Any]


class BodyField(NamedTuple):
    """A field of a body, or a parameter of a query or a path (then `place` says which)."""

    name: str
    type: str
    default: str
    told: str
    place: str = ""


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    told: str
    parameters: tuple[BodyField, ...]
    fields: tuple[BodyField, ...]
    answers: tuple[tuple[str, str], ...]


def operations(document: Json) -> Iterator[Operation]:
    """Every method of every path, in the document's order."""
    for path, methods in document["paths"].items():
        for method, found in methods.items():
            yield Operation(
                method.upper(),
                path,
                prose(found.get("description") or found.get("summary") or ""),
                tuple(_parameters(found)),
                tuple(_fields(document, found)),
                tuple(
                    (status, _meaning(each.get("description", "")))
                    for status, each in found.get("responses", {}).items()
                ),
            )


def prose(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def _meaning(told: str) -> str:
    """What an answer means, to stand in a list; FastAPI's words for a good one say nothing."""
    return "OK" if told == "Successful Response" else prose(told).rstrip(".")


def _parameters(operation: Json) -> Iterator[BodyField]:
    for each in operation.get("parameters", []):
        told = prose(each.get("description", ""))
        yield BodyField(each["name"], type_of(each["schema"]), "", told, each["in"])


def _fields(document: Json, operation: Json) -> Iterator[BodyField]:
    content = operation.get("requestBody", {}).get("content", {})
    schema = _resolved(document, content.get("application/json", {}).get("schema", {}))
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(field.get("default"))
        yield BodyField(name, type_of(field), default, prose(field.get("description", "")))


def _resolved(document: Json, schema: Json) -> Json:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def type_of(schema: Json) -> str:
    """A type in words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(type_of, schema["anyOf"])))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


# -- the page --------------------------------------------------------------------------------------
def page(document: Json) -> str:
    """All of it as HTML that loads a stylesheet of this server and nothing else."""
    found = list(operations(document))
    listed = "".join(f'<li><a href="#{_anchor(each)}">{_name(each)}</a></li>' for each in found)
    title = escape(f"{document['info']['title']}: HTTP interface")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="/static/favicon.svg">'
        '<link rel="stylesheet" href="/static/docs.css"></head>\n'
        f"<body><main><h1>{title}</h1><p>{escape(document['info'].get('description', ''))}</p>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. '
        '<a href="/">The page to read in</a>.</p>'
        f'<nav aria-label="Paths"><ul>{listed}</ul></nav>\n'
        f"{''.join(map(_section, found))}</main></body></html>\n"
    )


def _name(found: Operation) -> str:
    return f"{found.method} {escape(found.path)}"


def _anchor(found: Operation) -> str:
    return escape(f"{found.method.lower()}{found.path}".replace("/", "-"))


def _section(found: Operation) -> str:
    said = "; ".join(f"<b>{status}</b> {_words(told)}" for status, told in found.answers)
    table = _table((*found.parameters, *found.fields))
    return (
        f'<section id="{_anchor(found)}"><h2>{_name(found)}</h2><p>{_words(found.told)}</p>'
        f"{table}<p>Answers: {said}</p></section>\n"
    )


def _table(fields: tuple[BodyField, ...]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(each.name)}</code></td><td>{_words(each.type)}</td>"
        f"<td>{_words(each.place or each.default)}</td><td>{_words(each.told)}</td></tr>"
        for each in fields
    )
    head = "<tr><th>field</th><th>type</th><th>default</th><th>meaning</th></tr>"
    # It scrolls sideways on a phone, so it can be reached by keyboard.
    scroll = '<div class="table" tabindex="0" role="region" aria-label="Fields">'
    return f"{scroll}<table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _words(text: str) -> str:
    """Text with its `code` marked up."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
