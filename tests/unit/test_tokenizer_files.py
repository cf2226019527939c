"""A tokenizer that cannot be read is named by its file, with what the library says of it."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from support.serving import tiny_target

from nlakit.errors import CheckpointError
from nlakit.models.io import load_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    target, directory = tiny_target(), tmp_path_factory.mktemp("tokenizer")
    target.tokenizer.save_pretrained(directory)
    target.model.config.save_pretrained(directory)
    return directory


def changed(saved, directory, **parts: Any):
    shutil.copytree(saved, directory)
    raw = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps({**raw, **parts}))
    return directory


PARTS = ("model", "pre_tokenizer", "normalizer", "decoder", "post_processor")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_newer_library_is_named(saved, tmp_path, part):
    directory = changed(saved, tmp_path / "t", **{part: {"type": "Tomorrow"}})
    with pytest.raises(CheckpointError, match=r"t/tokenizer\.json cannot be read: .*newer library"):
        load_tokenizer(directory)


@pytest.mark.parametrize("damage", ["cut", "list"])
def test_what_is_no_tokenizer_is_named(saved, tmp_path, damage):
    directory = changed(saved, tmp_path / "t")
    path = directory / "tokenizer.json"
    path.write_text("[]" if damage == "list" else path.read_text()[:-200])
    with pytest.raises(CheckpointError, match=r"tokenizer.* cannot be read"):
        load_tokenizer(directory)


def test_code_beside_a_tokenizer_is_never_run(saved, tmp_path):
    directory = changed(saved, tmp_path / "t")
    path, ran = directory / "tokenizer_config.json", tmp_path / "ran"
    raw = json.loads(path.read_text())
    raw |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    path.write_text(json.dumps(raw))
    (directory / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: ...\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(directory)
    assert not ran.exists()
