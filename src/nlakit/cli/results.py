"""What a verb leaves on stdout, or in a file: one JSON object, or a reading in a format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from nlakit.config import write_text_atomic
from nlakit.console import notice
from nlakit.errors import InputError
from nlakit.reading import Reading

Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object.")]
Format = Literal["table", "json", "csv", "md", "html"]
SUFFIXES: dict[str, Format] = {".json": "json", ".csv": "csv", ".md": "md", ".html": "html"}


def write_json(value: Any) -> None:
    """Print one JSON object on a line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def chosen_format(format: Format | None, json: bool, output: Path | None) -> Format:
    """The format that was asked for, by name or by the file's ending.

    Raises:
        InputError: two formats; a file whose ending names none; or no directory to put it in.
    """
    if json and format not in (None, "json"):
        raise InputError(f"--json and --format {format} cannot be combined. Give one of them.")
    by_name: Format | None = "json" if json else format
    if output is None:
        return by_name or "table"
    if output.is_dir() or not output.absolute().parent.is_dir():
        found = "is a directory" if output.is_dir() else "lies in a directory that is not there"
        raise InputError(f"--output {output} {found}. Give a file.")
    chosen = by_name or SUFFIXES.get(output.suffix.lower())
    if chosen in (None, "table"):
        endings = ", ".join(SUFFIXES)
        raise InputError(
            f"--output {output}: a file is json, csv, md or html. Give --format, or a name that "
            f"ends in {endings}."
        )
    return chosen


def give_reading(reading: Reading, format: Format, output: Path | None) -> None:
    """Print a reading, or write it into a file that is new or takes another's place."""
    if format == "table":
        Console().print(reading)
        return
    text = {
        "json": reading.to_json,
        "csv": reading.to_csv,
        "md": reading.to_markdown,
        "html": reading.to_html,
    }[format]()
    if output is None:
        sys.stdout.write(text)
        return
    write_text_atomic(output, text)
    notice(f"Written to {output}")
