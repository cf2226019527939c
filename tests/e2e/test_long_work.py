"""extract, label, describe and train: on a full disk, and where somebody writes already."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from support.families import make
from support.recipes import RECIPES
from support.serving import D_MODEL, save_nla, tiny_tokenizer

from nlakit.cli import run
from nlakit.core.site import Site
from nlakit.data.locks import locked
from nlakit.models.target import Target
from nlakit.storyworld.grammar import generate

pytestmark = pytest.mark.e2e

TINY = (
    "target.layer=1", "target.injection_scale=5.0", "teacher.model=fake", "precision=float32",
    "corpus.documents=8", "corpus.rl_documents=0", "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "warm_start.batch_size=8", "warm_start.optimizer.warmup_steps=1", "checkpoint_every=1",
    "rl.steps=2", "rl.vectors=2", "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2",
    "rl.evaluate_every=1", "rl.optimizer.warmup_steps=1", "lora.rank=4", "lora.alpha=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A base, a corpus, an NLA, vectors and activations."""
    root = tmp_path_factory.mktemp("work")
    tokenizer = tiny_tokenizer()
    model = make("qwen2", len(tokenizer))
    model.config.max_position_embeddings = 1024
    Target(model, tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 12), *islice(generate(3, "heldout"), 8)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    save_nla(root / "nla")
    np.save(root / "vectors.npy", np.random.default_rng(0).standard_normal((9, D_MODEL), "f4"))
    assert run(commands(root, root / "activations")["extract"]) == 0
    return root


def commands(here: Path, output: Path) -> dict[str, list[str]]:
    """A command of each verb that writes into `output`."""
    target = ["--target", str(here / "base"), "--layer", "1"]
    corpus, activations = str(here / "corpus.jsonl"), str(here / "activations")
    sizes = ["--documents", "6", "--minimum-position", "4", "--shard-rows", "10"]
    describe = ["--nla", str(here / "nla"), "--shard-rows", "3", "--max-new-tokens", "6"]
    recipe = [f"target.checkpoint={here / 'base'}", f"corpus.source={corpus}", *TINY]
    found = {
        "extract": ["extract", *target, "--corpus", corpus, *sizes],
        "label": ["label", activations, "--teacher", "fake"],
        "describe": ["describe", str(here / "vectors.npy"), *describe],
        "train": ["train", str(RECIPES / "qwen2.5-7b-lora-1gpu.toml"), *recipe],
    }
    return {verb: [*words, "--output", str(output)] for verb, words in found.items()}


VERBS = ("extract", "label", "describe", "train")


def contents(directory: Path) -> dict[str, bytes]:
    """What a run leaves, but for its clock."""
    return {
        path.relative_to(directory).as_posix(): without_seconds(path)
        for path in directory.rglob("*")
        if path.is_file()
    }


def without_seconds(path: Path) -> bytes:
    if path.suffix != ".jsonl":
        return b"" if path.name == "report.html" else path.read_bytes()
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    kept = [{k: v for k, v in each.items() if k != "seconds"} for each in records]
    return json.dumps(kept).encode()


def failing_after(count: int) -> Iterator[None]:
    yield from [None] * count
    while True:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("writes", [0, 3, 9])
def test_a_full_disk_is_said_and_the_work_goes_on_when_there_is_space(
    here, tmp_path, monkeypatch, capsys, verb, writes
):
    whole, stopped = (commands(here, tmp_path / name)[verb] for name in ("whole", "stopped"))
    assert run(whole) == 0
    sync, full = os.fsync, failing_after(writes)

    def fsync(number: int) -> None:
        next(full)
        sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        found = run(stopped)
    if found == 0:  # fewer files than that
        assert writes > 3
        return
    assert found == 2
    assert "The disk is full" in capsys.readouterr().err
    assert run(stopped) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("verb", VERBS)
def test_a_directory_that_somebody_writes_into_is_refused(here, tmp_path, capsys, verb):
    output = tmp_path / "out"
    with locked(output, ".activations.lock" if verb == "train" else ".nlakit.lock"):
        assert run(commands(here, output)[verb]) == 2
    assert f"process {os.getpid()} is writing there" in capsys.readouterr().err


@pytest.mark.parametrize("teacher", ["fake", "openai:llama"])
def test_an_estimate_writes_nothing(here, tmp_path, monkeypatch, capsys, teacher):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    command = ["label", str(here / "activations"), "--teacher", teacher, "--estimate"]
    assert run([*command, "--output", str(tmp_path / "labels")]) == 0
    assert "30" in capsys.readouterr().out
    assert run([*command, "--output", str(tmp_path / "labels"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 30
    assert not (tmp_path / "labels").exists()


def test_extract_says_that_the_corpus_has_ended(here, tmp_path, capsys):
    command = commands(here, tmp_path / "out")["extract"]
    command[command.index("--documents") + 1] = "500"
    assert run(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "of 12 documents of the train split. The corpus has no more of 500" in said
    assert "--split heldout reads the others" in said
