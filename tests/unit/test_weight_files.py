"""Directories that cannot be read as they are: each is refused quickly, by what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import make, make_multimodal

from nlakit.errors import CheckpointError
from nlakit.models.io import load_backbone
from nlakit.models.weights import INDEX_NAME, WEIGHTS_NAME

Tensors = dict[str, torch.Tensor]
MATRIX = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    make("llama", 64).save_pretrained(directory)
    return directory


@pytest.fixture
def directory(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = directory / WEIGHTS_NAME
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(directory: Path, found: str, dtype: torch.dtype = torch.float32) -> None:
    with pytest.raises(CheckpointError, match=found) as caught:
        load_backbone(directory, dtype=dtype)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize(
    ("found", "config"),
    [
        ("says 'fp8': the weights are quantized", {"quant_method": "fp8"}),
        ("says 'gptq': the weights are quantized", {"quant_method": "gptq", "bits": 4}),
        ("says 'bitsandbytes': the weights", {"quant_method": "bitsandbytes"}),
        ("quantized", {"load_in_4bit": True}),
    ],
)
def test_a_quantized_checkpoint_is_called_one(directory, found, config):
    edit_config(directory, quantization_config=config)
    refused(directory, found)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("F8_E4M3", lambda w: w | {MATRIX: w[MATRIX].to(torch.float8_e4m3fn)}),
        ("I8", lambda w: w | {MATRIX: w[MATRIX].to(torch.int8)}),
        ("I32", lambda w: w | {MATRIX.replace("weight", "qweight"): torch.zeros(2).int()}),
        ("F32", lambda w: w | {f"{MATRIX}_scale_inv": torch.ones(1, 1)}),
        ("F32", lambda w: w | {MATRIX.replace("weight", "SCB"): torch.ones(3)}),
    ],
)  # fmt: skip
def test_quantized_weights_are_called_so_without_their_config(directory, kind, change):
    edit_weights(directory, change)
    refused(directory, f"stored as {kind}: the weights are quantized")


def test_a_dtype_of_8_bits_is_a_quantization(directory):
    edit_config(directory, dtype="float8_e4m3fn")
    refused(directory, "float8_e4m3fn.*quantized")


def test_pickled_weights_alone(directory):
    (directory / WEIGHTS_NAME).rename(directory / "pytorch_model.bin")
    refused(directory, "is missing.*pickled .pytorch_model.bin.*Convert them to safetensors")


def test_other_names_are_named(directory):
    (directory / WEIGHTS_NAME).rename(directory / "model.fp16.safetensors")
    refused(directory, "is missing. There is model.fp16.safetensors instead")


def test_a_git_lfs_pointer(directory):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"
    (directory / WEIGHTS_NAME).write_text(text)
    refused(directory, "is a Git LFS pointer, not the weights. Run `git lfs pull`")


@pytest.mark.parametrize("name", [WEIGHTS_NAME, INDEX_NAME, "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_not_waited_for(directory, name, kind):
    (directory / WEIGHTS_NAME).unlink(missing_ok=name == INDEX_NAME)
    path = directory / name
    path.unlink(missing_ok=True)
    made = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "directory": os.mkdir}
    made[kind](path)
    refused(directory, "not a file")


@pytest.mark.parametrize("name", ["config.json", INDEX_NAME])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[" * 100_000, "nested too deeply|is not JSON"),
        ('{"a":' * 100_000, "nested too deeply|is not JSON"),
        ("[1]", "must hold a JSON object, found list"),
        ("\xff\xfe", "not text in UTF-8|not JSON"),
        ("{", "not JSON"),
        (" " * (65 << 20), "bytes; at most"),
    ],
)
def test_descriptions_that_are_none(directory, name, text, found):
    (directory / WEIGHTS_NAME).unlink()
    (directory / name).write_bytes(text.encode("latin-1"))
    refused(directory, found)


@pytest.mark.parametrize(
    ("weight_map", "found"),
    [
        ({}, "has no weight_map"),
        ("model.safetensors", "has no weight_map"),
        ({"a": 3}, "weight_map names 3"),
        ({"a": "../other/model.safetensors"}, "weight_map names '../other/model.safetensors'"),
        ({"a": "pytorch_model.bin"}, "weight_map names 'pytorch_model.bin'"),
        ({"a": "gone.safetensors"}, "gone.safetensors is missing"),
    ],
)
def test_indexes_that_lead_nowhere(directory, weight_map, found):
    (directory / WEIGHTS_NAME).unlink()
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    refused(directory, found)


def test_a_weight_in_two_shards(directory):
    weights = load_file(directory / WEIGHTS_NAME)
    (directory / WEIGHTS_NAME).unlink()
    save_file(weights, directory / "a.safetensors")
    save_file({MATRIX: weights[MATRIX] + 1}, directory / "b.safetensors")
    (directory / INDEX_NAME).write_text(
        json.dumps({"weight_map": {MATRIX: "a.safetensors", "x": "b.safetensors"}})
    )
    refused(directory, f"stores {MATRIX} twice.*a.safetensors.*b.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(directory, bad):
    def spoil(weights: Tensors) -> Tensors:
        weights[MATRIX][3, 5] = bad
        return weights

    edit_weights(directory, spoil)
    refused(directory, f"{MATRIX} holds NaN or infinite")


def test_weights_past_float16_say_which_dtype_to_use(directory):
    edit_weights(directory, lambda w: w | {MATRIX: w[MATRIX] * 1e6})
    assert load_backbone(directory, dtype=torch.bfloat16)
    refused(directory, "more than float16 can represent.*bfloat16 or float32", torch.float16)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**9}, "says 1000000000 blocks, the files hold 3"),
        ({"num_attention_heads": 0}, "usable config|num_attention_heads"),
        ({"num_attention_heads": 7}, "usable config|no model that can be made"),
        ({"vocab_size": 10**12}, "config.json asks for .1000000000000, 32."),
        ({"vocab_size": 67}, "config.json asks for .67, 32."),
        ({"intermediate_size": 10**15}, "no model that can be made"),
        ({"hidden_act": "owner/gelu"}, "no model that can be made"),
        ({"rope_parameters": {"rope_type": "x"}}, "usable config|no model that can be made"),
        ({"tie_word_embeddings": "yes"}, "usable config|tie_word_embeddings"),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"model_type": None}, "is not supported"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights is 'other"),
        ({"fusion_config": {"patch_embeddings": True}}, "fusion_config"),
        ({"per_layer_config": {"0": {"hidden_size": 8}}}, "per_layer_config"),
    ],
)
def test_configs_that_describe_no_model(directory, changes, found):
    edit_config(directory, **changes)
    with pytest.raises(CheckpointError, match=found):
        load_backbone(directory)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_config_cannot_make_transformers_fetch_code(tmp_path, monkeypatch, wrapped):
    (make_multimodal(64) if wrapped else make("llama", 64)).save_pretrained(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda: True)
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention",
        lambda *args, **_: asked.append(args),
    )
    hostile = {
        "_attn_implementation": "owner/x",
        "attn_implementation": "owner/x",
        "_attn_implementation_internal": "owner/x",
        "auto_map": {"AutoModelForCausalLM": "evil.py--M"},
        "use_kernels": True,
    }
    edit_config(tmp_path, **hostile)
    if wrapped:
        text = json.loads((tmp_path / "config.json").read_text())["text_config"]
        edit_config(tmp_path, text_config=text | hostile)
    model = load_backbone(tmp_path)
    assert not asked
    assert model.config._attn_implementation in ("sdpa", "eager")
    assert not hasattr(model.config, "auto_map")
