"""What engines refuse, and that the table, the engines and the documentation agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlakit.engines.base import REFUSALS, Capability, refuse, with_sessions
from nlakit.engines.fake import FakeEngine
from nlakit.engines.local import LocalEngine
from nlakit.engines.remote import RemoteEngine
from nlakit.engines.vllm import VllmEngine
from nlakit.errors import UnsupportedError, UserError

DOC = Path(__file__).parents[2] / "docs" / "engine.md"
CLASSES = {
    "local": LocalEngine,
    "fake": FakeEngine,
    "vllm": VllmEngine,
    "remote": RemoteEngine,
    "remote_wire": RemoteEngine,
}
METHODS = ("verbalize", "reconstruct", "extract")


def doc_row(engine: str, capability: Capability, advice: str) -> str:
    return f"| `{engine}` | {capability.meaning} | {advice} |"


def test_every_engine_has_a_row_and_the_methods_of_the_protocol():
    assert REFUSALS.keys() == CLASSES.keys()
    for cls in CLASSES.values():
        assert all(callable(getattr(cls, name)) for name in METHODS)
        assert isinstance(cls.kind, property)


def test_what_is_not_refused_is_there():
    for engine, cls in CLASSES.items():
        for capability in (Capability.SESSION, Capability.SCORE):
            assert hasattr(cls, capability) or capability in REFUSALS[engine]


def test_a_refusal_says_who_what_and_what_instead():
    with pytest.raises(UnsupportedError) as caught:
        refuse("remote", Capability.RECONSTRUCT)
    assert isinstance(caught.value, UserError)
    message = str(caught.value)
    assert "remote engine" in message and "RemoteEngine.score" in message
    assert Capability.RECONSTRUCT.meaning in message
    with pytest.raises(UnsupportedError, match="LocalEngine"):
        with_sessions(FakeEngine(["a"], 4))


def test_the_documentation_lists_every_refusal():
    text = DOC.read_text(encoding="utf-8")
    rows = [
        doc_row(engine, capability, advice)
        for engine, table in REFUSALS.items()
        for capability, advice in table.items()
    ]
    assert [row for row in rows if row not in text] == []
    assert text.count("| `") == len(rows)
