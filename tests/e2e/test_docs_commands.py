"""The commands in the docs are run as they stand, on tiny stand-ins for what they name."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import islice
from pathlib import Path

import huggingface_hub
import pytest
import tomli_w
from support.docs import DOCS, commands

from nlakit.cli import run
from nlakit.registry import bundled_path
from nlakit.storyworld.grammar import generate
from nlakit.worlds.storyworld.documents import sample_texts

STAND_INS = {"you/nla-av": "av", "you/nla-ar": "ar", "you/base": "target"}


def shrunk(page: str) -> str:
    """The page's recipe with sizes for a tiny model, everything else as it stands."""
    block = re.search(r"^```toml\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    recipe = tomllib.loads(block[1])
    sizes = {
        "corpus": {"documents": 5, "rl_documents": 4, "minimum_position": 4, "max_tokens": 48,
                   "held_out_documents": 4},
        "lora": {"rank": 2},
        "warm_start": {"batch_size": 16},
        "rl": {"steps": 1, "vectors": 2, "group": 2, "max_new_tokens": 8},
    }  # fmt: skip
    for section, changes in sizes.items():
        assert recipe[section].keys() >= changes.keys()
        recipe[section] |= changes
    return tomli_w.dumps(recipe)


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
    texts = (text.replace("\n\n", "\n") for text in sample_texts(2))
    (tmp_path / "passages.txt").write_text("\n\n".join(texts), encoding="utf-8")
    said = []
    for arguments in commands("bring-a-released-nla.md"):
        assert run(arguments) == 0, arguments
        said.append((arguments, capsys.readouterr().out))
    explained = [out for arguments, out in said if arguments[0] == "explain"]
    assert ["no baseline" in out for out in explained] == [True, True, False, False]
    assert (tmp_path / "released" / "av" / "README.md").is_file()
    assert (tmp_path / "released" / "target" / "config.json").is_file()
    assert (tmp_path / "storyworld" / "target" / "config.json").is_file()


def test_train_for_your_model(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model.toml").write_text(shrunk("train-for-your-model.md"), encoding="utf-8")
    made = [*islice(generate(3, "train"), 14), *islice(generate(3, "heldout"), 4)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for arguments in commands("train-for-your-model.md"):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)
    assert (tmp_path / "runs" / "my-model" / "nla" / "report.json").is_file()
    assert (tmp_path / "released" / "av" / "README.md").is_file()
