"""What bad input gets, with the bundled NLA: a clear message, status 2, nothing half-written.

These need the bundled NLA, and fail without it: a package that cannot read is not one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import nlakit
from nlakit.cli import run
from nlakit.errors import CheckpointError, ContractError, InputError
from nlakit.registry import bundled_path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smoke.toml"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def nla() -> nlakit.NLA:
    return nlakit.load()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundled NLA, to be damaged."""
    return Path(shutil.copytree(bundled_path(), tmp_path / "copy"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `nlakit` says on stderr, once it has been seen to refuse properly."""
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_text(capsys, text):
    assert "empty" in refusal(capsys, "explain", text, "--json")


def test_text_longer_than_the_context_names_both_lengths(nla, capsys):
    message = refusal(capsys, "explain", "word " * 2000)
    assert str(nla.target.max_tokens) in message
    found = re.search(r"is (\d+) tokens", message)
    assert found and int(found[1]) > nla.target.max_tokens


def test_nan_vector(nla):
    vectors = torch.ones(3, nla.card.d_model)
    vectors[1, 4] = float("nan")
    with pytest.raises(InputError, match="row 1 contains nan"):
        nla.describe(vectors)


def test_wrong_dimension_names_the_right_one(nla):
    with pytest.raises(InputError, match=str(nla.card.d_model)):
        nla.score("a story", torch.ones(nla.card.d_model + 1))


@pytest.mark.parametrize("part", ["target", "av", "ar"])
def test_missing_weight_file_is_named(copy, capsys, part):
    (copy / part / "model.safetensors").unlink()
    message = refusal(capsys, "explain", "hello", "--nla", str(copy))
    assert f"{part}/model.safetensors" in message


@pytest.mark.parametrize(
    "name", ["av/model.safetensors", "ar/value_head.safetensors", "mean.safetensors"]
)
def test_truncated_weight_file_is_named(copy, capsys, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    message = refusal(capsys, "explain", "hello", "--nla", str(copy))
    assert name in message and "corrupt" in message


def test_sidecar_with_another_tokenizer_s_ids(copy, capsys):
    sidecar = copy / "av" / "nla_meta.yaml"
    raw = yaml.safe_load(sidecar.read_text(encoding="utf-8"))
    right = raw["tokens"]["injection_token_id"]
    raw["tokens"]["injection_token_id"] = 149705
    sidecar.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    message = refusal(capsys, "explain", "hello", "--nla", str(copy))
    assert all(part in message for part in ("injection_token_id", "149705", str(right)))
    with pytest.raises(ContractError):
        nlakit.load(copy)


def test_half_a_pair(copy, capsys):
    shutil.rmtree(copy / "ar")
    assert "ar/config.json" in refusal(capsys, "explain", "hello", "--nla", str(copy))
    with pytest.raises(CheckpointError):
        nlakit.load(copy)


def test_config_with_a_typo_names_the_likely_key_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "run"
    message = refusal(capsys, "train", str(RECIPE), "rl.stepz=3", "--output", str(output))
    assert "rl.stepz" in message and "'steps'" in message
    assert not output.exists()


def test_eval_refuses_before_it_writes(tmp_path, capsys):
    output = tmp_path / "report"
    arguments = ["eval", "storyworld", "--documents", "0", "--output", str(output)]
    assert "found 0" in refusal(capsys, *arguments)
    assert not output.exists()


def test_the_installed_command_exits_2_without_a_traceback():
    result = subprocess.run(
        [sys.executable, "-m", "nlakit", "explain", "--json"],
        input="",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "empty" in result.stderr and "Traceback" not in result.stderr
