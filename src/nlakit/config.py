"""Recipes: TOML files plus `key=value` from the command line, checked by pydantic.

Knows nothing about what the configs configure.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import pydantic_core
import tomli_w

from nlakit.errors import ConfigError

Location = tuple[int | str, ...]


class FrozenModel(pydantic.BaseModel):
    """Base of everything that crosses a process or a disk: immutable, unknown keys refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def validate_json(model_cls: type[ModelT], text: str | bytes) -> ModelT:
    """A model from the JSON of a file that somebody made.

    Not by `model_validate_json` alone: each of its errors holds a copy of its own of what was
    given, so that three megabytes became nine hundred.

    Raises:
        pydantic.ValidationError: it is another thing, or no JSON.
    """
    try:
        raw = pydantic_core.from_json(text)
    except ValueError:
        return model_cls.model_validate_json(text)
    return model_cls.model_validate(raw)


def load_toml(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a TOML file (nothing when `path` is None) and lay `key.sub=value` pairs over it.

    A value is read as TOML (`3`, `true`, `[1, 2]`) and, where it is not TOML, as a plain string.

    Raises:
        ConfigError: the file is missing or not TOML, or a pair cannot be placed.
    """
    raw = {} if path is None else _read_toml(Path(path))
    for pair in overrides:
        _apply_override(raw, pair)
    return raw


def parse_config(
    model_cls: type[ModelT],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    change: Callable[[dict[str, Any]], None] | None = None,
) -> ModelT:
    """Read a recipe into `model_cls`.

    Args:
        change: made to what stands in file and overrides, before it is checked.

    Raises:
        ConfigError: names each wrong key, the value found and, for a typo, the likely key.
    """
    raw = load_toml(path, overrides)
    if change is not None:
        change(raw)
    try:
        return model_cls.model_validate(raw)
    except pydantic.ValidationError as error:
        source = "the configuration" if path is None else str(path)
        raise ConfigError(describe_errors(model_cls, error, source)) from error


def write_resolved(config: pydantic.BaseModel, path: str | Path) -> None:
    """Write a config as TOML, atomically; keys that are None are left out, TOML having no null.

    Raises:
        ConfigError: reading the file back would not give the same config.
    """
    text = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    if type(config).model_validate(tomllib.loads(text)) != config:
        raise ConfigError(
            f"{path}: this {type(config).__name__} cannot be written as TOML without loss "
            "(a key is None whose default is not None); give that key a value."
        )
    write_text_atomic(path, text)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one, never a half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def suggestion(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` when a known name is close, else the names there are, else nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""


def describe_errors(
    model_cls: type[pydantic.BaseModel], error: pydantic.ValidationError, source: str
) -> str:
    """One line per wrong key of a pydantic error, for a person."""
    lines = [_describe(model_cls, item) for item in error.errors(include_url=False)]
    return "\n".join([f"{source} is not a valid {model_cls.__name__}:", *lines])


def _describe(model_cls: type[pydantic.BaseModel], item: Mapping[str, Any]) -> str:
    location: Location = item["loc"]
    key = ".".join(map(str, location)) or "(whole)"
    if item["type"] == "extra_forbidden":
        known = _known_keys(model_cls, location[:-1])
        hint = suggestion(str(location[-1]), known)
        return f"  {key}: unknown key, found {_shown(item['input'])}.{hint}"
    if item["type"] == "missing":
        return f"  {key}: required, and not there. Add it to the file or give {key}=VALUE."
    return f"  {key}: found {_shown(item['input'])}. {item['msg']}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _known_keys(model_cls: type[pydantic.BaseModel], location: Location) -> set[str]:
    """Keys the model accepts at a place; list indices and union tags on the way are passed over."""
    models = {model_cls}
    for part in location:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = {found for a in annotations for found in _models_in(a)} or models
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> set[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return {annotation}
    return {found for arg in typing.get_args(annotation) for found in _models_in(arg)}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _apply_override(raw: dict[str, Any], pair: str) -> None:
    key, equals, value = pair.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {pair!r}: expected key=value, such as train.steps=100.")
    table = raw
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override {pair!r}: {part!r} holds {table!r}, not a table of keys.")
    table[parts[-1]] = _override_value(value.strip())


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A newline could smuggle in a second key; then the text was never one TOML value.
    return parsed["value"] if parsed.keys() == {"value"} else text
