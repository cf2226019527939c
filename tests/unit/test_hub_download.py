"""What is downloaded of a repository on the hub: descriptions, and the weights that are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from nlakit.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = json.dumps(
    {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
)
SHARDS = {"model.safetensors.index.json": INDEX, "model-1-of-2.safetensors": "1",
          "model-2-of-2.safetensors": "2"}  # fmt: skip
DESCRIBED = {"config.json": "{}", "tokenizer.json": "{}", "chat_template.jinja": ""}
NEVER = dict.fromkeys(
    ("consolidated.safetensors", "original/params.safetensors", "model.fp16.safetensors",
     "pytorch_model.bin", "modeling_own.py"), "",
)  # fmt: skip


class Repository:
    """A repository of some files, which keeps what it was asked for."""

    def __init__(self, files: dict[str, str], cache: Path) -> None:
        self.files, self.cache = files, cache
        self.revisions: list[str | None] = []

    def snapshot_download(
        self, name: str, *, allow_patterns: list[str], revision: str | None = None, **rest: Any
    ) -> str:
        """Copies the files that the patterns allow, by the hub's own filter."""
        self.revisions.append(revision)
        for path in filter_repo_objects(self.files, allow_patterns=allow_patterns):
            (self.cache / COMMIT / path).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / COMMIT / path).write_text(self.files[path])
        return str(self.cache / COMMIT)


@pytest.fixture
def download(tmp_path, monkeypatch):
    def files_of(files: dict[str, str]) -> tuple[set[str], Repository]:
        repository = Repository(files, tmp_path)
        monkeypatch.setattr(hub, "snapshot_download", repository.snapshot_download)
        found = hub.locate("somebody/something")
        paths = (path for path in found.rglob("*") if path.is_file())
        return {path.relative_to(found).as_posix() for path in paths}, repository

    return files_of


def test_the_one_file_goes_before_an_index(download):
    wanted = {**DESCRIBED, "model.safetensors": ""}
    found, repository = download({**wanted, **SHARDS, **NEVER})
    assert found == {*wanted, "model.safetensors.index.json"} and len(repository.revisions) == 1


def test_shards_that_the_index_names_are_downloaded_and_no_others(download):
    found, repository = download({**DESCRIBED, **SHARDS, **NEVER, "model-3-of-2.safetensors": ""})
    assert found == {*DESCRIBED, *SHARDS}
    # Both of one commit, should the branch move between them.
    assert repository.revisions == [None, COMMIT]


def test_a_pair_in_folders_has_the_weights_of_each(download):
    adapter = {
        "av/adapter_config.json": "{}",
        "av/adapter_model.safetensors": "",
        "av/nla.yaml": "",
    }
    base = {f"ar [1]/{name}": text for name, text in {**DESCRIBED, **SHARDS}.items()}
    own = {"ar [1]/value_head.safetensors": "", "mean.safetensors": "", "nla.json": "{}"}
    found, _ = download({**adapter, **base, **own, "ar [1]/other.safetensors": ""})
    assert found == {*adapter, *base, *own}


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": {"a": 3}}', '{"weight_map": []}'])
def test_a_broken_index_is_left_to_who_reads_the_weights(download, index):
    found, _ = download({**DESCRIBED, **SHARDS, "model.safetensors.index.json": index})
    assert found == {*DESCRIBED, "model.safetensors.index.json"}
