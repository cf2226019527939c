"""What the person who starts the server decides."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from platformdirs import user_data_path
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from nlakit.config import FrozenModel

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Limits(FrozenModel):
    """What one request may ask for; sent to clients by `GET /`."""

    max_input_chars: int = 65_536
    max_positions_per_request: int = 512
    max_new_tokens: int = 4096
    max_describe_batch: int = 512
    max_description_chars: int = 8192
    max_completion_tokens: int = 512


LIMITS = Limits()
"""Fixed: they are part of the interface, and of its OpenAPI description."""


class Settings(FrozenModel):
    """How the server runs."""

    # A refused secret must not stand in the message that refuses it.
    model_config = ConfigDict(hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    """0 takes a free one."""
    secret: SecretStr | None = None
    """What clients must send as X-SECRET-KEY; needed for any address but this machine's own."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, beside this machine's own, that a Host header may have."""
    allowed_origins: tuple[str, ...] = ()
    """Origins, beside the server's own, whose requests are let in, such as https://example.org."""
    data_dir: Path = Field(default_factory=lambda: user_data_path("nlakit", appauthor=False))
    """Where saved readings are kept."""
    projects: tuple[Path, ...] = ()
    """Audit projects (`nlakit scan`) that the page shows."""
    max_rows: int = Field(default=64, ge=1, le=4096)
    """Explanations written side by side."""
    max_requests: int = Field(default=128, ge=1)
    """Requests that wait or run; the next is told 429."""
    max_unfinished_rows: int = Field(default=16_384, ge=1)
    """Explanations of all requests that wait or are written; beyond it a client has its share."""
    request_deadline_s: float = Field(default=600, gt=0)
    heartbeat_s: float = Field(default=10, gt=0)
    """How often a silent stream says that it lives."""
    head_s: float = Field(default=4, gt=0)
    """How long a request's head may take to arrive."""
    rest_s: float = Field(default=30, gt=0)
    """How long a connection may rest between two requests."""
    stall_s: float = Field(default=20, gt=0)
    """How long a client may leave an answer unread before it is cut off."""
    drain_s: int = Field(default=30, ge=0)
    """How long running requests have to end after SIGTERM."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)

    @field_validator("secret")
    @classmethod
    def _secret_is_one_word(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            value = secret.get_secret_value()
            if not value or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError("a secret must be one word of printable ASCII characters")
        return secret

    @model_validator(mode="after")
    def _other_machines_need_a_secret(self) -> Settings:
        if self.secret is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by other machines, so a secret is needed: "
                "give --secret-file, or leave --host out"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
