"""nlakit reads what a language model is thinking, in words, and says how far to believe it.

    import nlakit

    pair = nlakit.load()
    print(pair.explain("Mary had a little lamb"))

Public names load on first use, so that `import nlakit` costs milliseconds and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlakit.card import NlaCard
    from nlakit.core.site import Site
    from nlakit.engines.asynchronous import AsyncRemotePair
    from nlakit.engines.base import Sampling
    from nlakit.engines.remote import RemotePair
    from nlakit.errors import (
        CheckpointError,
        ConfigError,
        ContractError,
        InputError,
        MissingExtraError,
        NlakitError,
        ResumeError,
        UserError,
    )
    from nlakit.pair.load import load
    from nlakit.pair.pair import Pair
    from nlakit.reading import Reading, Score, TokenReading

__version__ = "0.1.0"

_HOMES = {
    "AsyncRemotePair": "engines.asynchronous",
    "RemotePair": "engines.remote",
    "Site": "core.site",
    "Pair": "pair.pair",
    "load": "pair.load",
    "NlaCard": "card",
    "Reading": "reading",
    "Score": "reading",
    "TokenReading": "reading",
    "Sampling": "engines.base",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContractError": "errors",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "NlakitError": "errors",
    "ResumeError": "errors",
    "UserError": "errors",
}

__all__ = [
    "AsyncRemotePair",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "InputError",
    "MissingExtraError",
    "NlaCard",
    "NlakitError",
    "Pair",
    "Reading",
    "RemotePair",
    "ResumeError",
    "Sampling",
    "Score",
    "Site",
    "TokenReading",
    "UserError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
