"""The commands in the docs are run as they stand, on tiny stand-ins for what they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import huggingface_hub
import pytest

from nlakit.cli import run
from nlakit.publish.doctor import storyworld_texts
from nlakit.registry import bundled_path

DOCS = Path(__file__).parents[2] / "docs"
STAND_INS = {"you/nla-av": "av", "you/nla-ar": "ar", "you/base": "target"}


def commands(page: str) -> list[list[str]]:
    """Arguments of every `$ nlakit …` in the page's console blocks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines and all(line.startswith("$ nlakit ") for line in lines)
    return [shlex.split(line.removeprefix("$ nlakit ")) for line in lines]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub's cache in which the docs' names stand for parts of the bundled NLA."""
    for name, part in STAND_INS.items():
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("one")
        (repository / "snapshots").mkdir()
        (repository / "snapshots" / "one").symlink_to(bundled_path() / part)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_bring_a_released_nla(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = (text.replace("\n\n", "\n") for text in storyworld_texts(2))
    (tmp_path / "passages.txt").write_text("\n\n".join(texts), encoding="utf-8")
    said = []
    for arguments in commands("bring-a-released-nla.md"):
        assert run(arguments) == 0, arguments
        said.append((arguments, capsys.readouterr().out))
    explained = [out for arguments, out in said if arguments[0] == "explain"]
    assert "no baseline" in explained[0] and "no baseline" not in explained[1]
    assert (tmp_path / "released" / "av" / "README.md").is_file()
    assert not (tmp_path / "released" / "target").exists()
    assert (tmp_path / "storyworld" / "target" / "config.json").is_file()
