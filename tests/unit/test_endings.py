"""Every id that a checkpoint ends a turn with, whichever of its files names it."""

from __future__ import annotations

import json

import pytest
from support.serving import save_nla, tiny_target
from transformers import AutoTokenizer, GenerationConfig

from nlakit.errors import CheckpointError
from nlakit.models.endings import GENERATION_NAME, endings_of, read_endings
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.serve.tokens import terminal_ids


def say(directory, found):
    (directory / GENERATION_NAME).write_text(json.dumps({"eos_token_id": found, "top_k": 50}))


@pytest.fixture
def directory(tmp_path):
    tiny_target().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("found", "expected"), [([2, 9, 7], {2, 7, 9}), (9, {2, 9}), (None, {2})])
def test_the_generation_config_is_read(directory, found, expected):
    say(directory, found)
    target = Target.load(directory, 1)
    assert terminal_ids(target) == expected
    assert endings_of(target.model, target.tokenizer)[0] == target.tokenizer.eos_token_id
    assert set(read_endings(directory)) <= expected


def test_they_are_saved_with_the_model_as_transformers_reads_them(directory):
    assert not (directory / GENERATION_NAME).exists()
    say(directory, [2, 9])
    Target.load(directory, 1).save(directory / "again")
    assert terminal_ids(Target.load(directory / "again", 1)) == {2, 9}
    assert GenerationConfig.from_pretrained(directory / "again").eos_token_id == [2, 9]
    assert AutoTokenizer.from_pretrained(directory / "again").eos_token_id == 2


def test_an_answer_ends_there_as_well(tmp_path):
    nla = save_nla(tmp_path)
    say(nla / "av", [2, 9])
    assert Verbalizer.load(nla / "av").eos_ids == [2, 9]


@pytest.mark.parametrize("found", ["</s>", [2, "x"], {"a": 1}, True])
def test_other_things_than_ids_are_refused(directory, found):
    say(directory, found)
    with pytest.raises(CheckpointError, match=r"generation_config.json: eos_token_id is"):
        Target.load(directory, 1)


def test_a_generation_config_that_is_no_object(directory):
    (directory / GENERATION_NAME).write_text("[1]")
    with pytest.raises(CheckpointError, match="generation_config.json must hold a JSON object"):
        Target.load(directory, 1)
