"""Every error nlakit raises on purpose::

    NlakitError(Exception)
    └── UserError(NlakitError, ValueError)
        ├── InputError
        │   └── UnreadableError
        ├── ConfigError
        ├── ContractError
        ├── CheckpointError
        ├── ResumeError
        ├── UnsupportedError
        ├── RemoteError
        └── MissingExtraError

The command line prints the message of a `UserError` without a traceback and exits with status 2.
A message says what was asked, what was found (the value), and what to do.
"""

from __future__ import annotations

from typing import Any


class NlakitError(Exception):
    """Base of every error of this package."""


class UserError(NlakitError, ValueError):
    """Something the person running the command can put right."""


class InputError(UserError):
    """Text or vectors that cannot be read: empty, too long, of a wrong size, not finite."""


class UnreadableError(InputError):
    """One text or conversation that this tokenizer or chat template cannot read.

    Others may be read: a run over a corpus passes over such a row and counts it.
    """


class ConfigError(UserError):
    """A recipe or a `key=value` override has a typo or a bad value."""


class ContractError(UserError):
    """`nla_meta.yaml` cannot be read, or differs from the live tokenizer or config.

    Attributes:
        field: dotted name in the file, such as `tokens.injection_token_id`.
        found: the value met.
        expected: the value, or a description of the values, that would have been accepted.
    """

    def __init__(self, *, field: str, found: Any, expected: Any, hint: str = "") -> None:
        self.field = field
        self.found = found
        self.expected = expected
        message = f"nla_meta.yaml: {field}: found {_shown(found)}, expected {_shown(expected)}."
        super().__init__(f"{message} {hint}".rstrip())


class CheckpointError(UserError):
    """Weights that are missing, corrupt, or of the wrong shape."""


class ResumeError(UserError):
    """A run directory that belongs to another config."""


class UnsupportedError(UserError):
    """An engine was asked for what it cannot do.

    Attributes:
        engine: its name.
        asked: what was asked of it.
        advice: what to do instead.
    """

    def __init__(self, engine: str, asked: str, advice: str) -> None:
        self.engine = engine
        self.asked = asked
        self.advice = advice
        super().__init__(f"The {engine} engine cannot give {asked}. Instead, {advice}")


class RemoteError(UserError):
    """A server that cannot be reached, refuses, or answers in another language.

    Attributes:
        status: of the HTTP answer; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class MissingExtraError(UserError):
    """An optional package is not installed.

    Attributes:
        package: the name that could not be imported.
        extra: the extra of nlakit that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        install = f"pip install 'nlakit[{extra}]'"
        super().__init__(f"{package} is needed here and is not installed. Run: {install}")


def _shown(value: Any) -> str:
    """A value for a message: prose as it is, anything else by `repr`, cut at 200 characters."""
    text = value if isinstance(value, str) and " " in value else repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
