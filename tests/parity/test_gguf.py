"""A GGUF file's model equals the one it was written from, and transformers' own reading of it."""

from __future__ import annotations

import logging
import struct

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from support.gguf_files import CHAT, WORDS, byte_level, tiny, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from nlakit.cli import run
from nlakit.errors import CheckpointError, InputError
from nlakit.models.convert import convert_gguf, write_shards
from nlakit.models.gguf_reader import GgufFile
from nlakit.models.hub import locate
from nlakit.models.io import ending_ids, load_backbone, load_tokenizer
from nlakit.models.target import Target
from nlakit.models.weights import INDEX_NAME

KINDS = ("llama", "qwen2", "qwen3", "gemma3_text")
IDS = torch.tensor([[5, 77, 11, 203, 9, 140, 33, 61, 250, 7, 8, 90]])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NLAKIT_CACHE", str(tmp_path / "cache"))


def theirs(path):
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )


@pytest.mark.parametrize("kind", [*KINDS, "llama with biases"])
def test_unquantized_weights_come_back_bit_by_bit(kind, tmp_path):
    # Gemma's one more is rounded when it is added.
    exact = kind != "gemma3_text"
    model = tiny(kind) if kind in KINDS else tiny("llama", attention_bias=True)
    facts = {} if exact else {"attention.sliding_window_pattern": 2}
    path = write_gguf(tmp_path / "m.gguf", model, **facts)
    made = load_backbone(convert_gguf(path, tmp_path / "out"))
    for name, tensor in model.state_dict().items():
        found = made.state_dict()[name]
        assert torch.equal(found, tensor) if exact else torch.allclose(found, tensor, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(made(IDS).logits, model(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("stored", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_transformers_own_loader(kind, stored, tmp_path):
    model = tiny_of_blocks(kind)
    path = write_gguf(tmp_path / "m.gguf", model, stored)
    mine, other = load_backbone(convert_gguf(path, tmp_path / "out")), theirs(path)
    with torch.no_grad():
        assert (mine(IDS).logits - other(IDS).logits).abs().max() < 1e-3


def tiny_of_blocks(kind):
    """Of matrices whose rows are whole blocks of 32, so that every type can hold them."""
    # transformers' loader takes these widths of a head for granted, whatever the file says.
    changes = {"qwen3": {"head_dim": 128}, "gemma3_text": {"head_dim": 256}}.get(kind, {})
    if kind == "gemma3_text":
        changes |= {"query_pre_attn_scalar": 256, "layer_types": ["sliding_attention"] * 3}
    return tiny(kind, intermediate_size=64, **changes)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
YARN_FACTS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
              "rope.scaling.original_context_length": 64}  # fmt: skip
LINEAR_FACTS = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "rope", "facts"),
    [
        ("llama", LLAMA3, {}),
        ("qwen2", YARN, YARN_FACTS),
        ("qwen3", YARN, YARN_FACTS),
        ("llama", {"rope_type": "linear", "factor": 2.0}, LINEAR_FACTS),
    ],
)
def test_scaled_rotations_are_those_of_the_original(kind, rope, facts, tmp_path):
    # Of the original: transformers' loader of GGUF reads no scaling and gives other logits.
    theta = 500_000.0 if kind == "llama" else 1_000_000.0
    model = tiny(kind, rope_parameters={"rope_theta": theta, **rope})
    factors = factors_of(model, theta) if rope is LLAMA3 else None
    path = write_gguf(tmp_path / "m.gguf", model, factors=factors, **facts)
    made = load_backbone(convert_gguf(path, tmp_path / "out"))
    mine, original = made.model.rotary_emb, model.model.rotary_emb
    assert torch.equal(mine.inv_freq, original.inv_freq)
    assert mine.attention_scaling == original.attention_scaling
    plain = tiny(kind, rope_parameters={"rope_type": "default", "rope_theta": theta})
    assert not torch.allclose(original.inv_freq, plain.model.rotary_emb.inv_freq)
    ids = torch.arange(250)[None] % 300
    with torch.no_grad():
        assert (made(ids).logits - model(ids).logits).abs().max() < 1e-3


def factors_of(model, theta):
    """What transformers divides each plain frequency by."""
    found = model.model.rotary_emb.inv_freq.double()
    return theta ** -(torch.arange(len(found)).double() / len(found)) / found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"factors": torch.tensor([1.0, 2.0, 3.0, 4.0])}, "other factors than Llama 3's"),
        ({"rope.scaling.attn_factor": 0.5, **YARN_FACTS}, "attn_factor is 0.5"),
        ({"rope.scaling.yarn_beta_fast": 16.0, **YARN_FACTS}, "yarn_beta_fast is 16"),
    ],
)
def test_other_rotations_are_refused_by_name(change, found, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"), **change)
    with pytest.raises(CheckpointError, match=found):
        convert_gguf(path, tmp_path / "out")


def test_the_tokenizer_cuts_text_as_the_original_does(tmp_path):
    directory = convert_gguf(write_gguf(tmp_path / "m.gguf", tiny("llama")), tmp_path / "out")
    original, made = byte_level(), load_tokenizer(directory)
    for text in [*WORDS[:2], "a\n\n12", "<|im_start|>user\nhi<|im_end|>"]:
        assert made(text)["input_ids"] == original.encode(text).ids
        assert made.decode(made(text)["input_ids"]) == text
    assert (made.bos_token, made.eos_token, made.chat_template) == (
        "<|im_start|>", "<|im_end|>", CHAT)  # fmt: skip
    again = AutoTokenizer.from_pretrained(directory)
    assert again(WORDS[0])["input_ids"] == made(WORDS[0])["input_ids"]


def test_a_file_is_a_target_and_is_converted_once(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("qwen2"))
    target = Target.load(path, 1)
    directory = locate(str(path))
    assert directory.is_relative_to(tmp_path / "cache") and directory == locate(path)
    assert target.encode("12 boats").ids == target.tokenizer("12 boats")["input_ids"]
    card = (directory / "README.md").read_text()
    assert "m.gguf" in card and "SHA-256" in card and "Converted from GGUF" in card


def test_the_command_writes_a_directory_and_overwrites_none(tmp_path, capsys):
    path = write_gguf(tmp_path / "m.gguf", tiny("qwen3"))
    assert run(["convert", str(path), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert load_backbone(tmp_path / "out", dtype=torch.bfloat16).config.dtype == torch.bfloat16
    assert run(["convert", str(path), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(InputError, match="is there already"):
        convert_gguf(path, tmp_path / "out")


def test_the_end_of_a_turn_is_kept(tmp_path):
    facts = {"tokenizer.ggml.eot_token_id": 0}
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"), **facts)
    directory = convert_gguf(path, tmp_path / "out")
    assert ending_ids(directory, load_tokenizer(directory)) == [2, 0]


def test_shards_are_indexed(tmp_path):
    model = tiny("llama")
    directory = convert_gguf(write_gguf(tmp_path / "m.gguf", model), tmp_path / "out")
    (directory / "model.safetensors").unlink()
    state = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight"}
    write_shards(directory, iter(state.items()), None, shard_bytes=20_000)
    assert (directory / INDEX_NAME).exists() and not list(directory.glob("part-*"))
    assert torch.equal(load_backbone(directory)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"expert_count": 8}, "expert_count is 8"),
        ({"attention.sliding_window": 4}, "sliding_window is 4"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "'longrope' is not read"),
        ({"split.count": 3}, "in 3 files"),
        ({"general.type": "mmproj"}, "is a mmproj"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(facts, found, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"), **facts)
    with pytest.raises(CheckpointError, match=found):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_cut_of_text_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"), pre="tomorrow")
    with pytest.raises(CheckpointError, match="'tomorrow': how it cuts text is not known"):
        convert_gguf(path, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 30, 200, 3000, 0.5, 0.99])
def test_a_file_cut_short_is_refused(kept, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="GGUF"):
        convert_gguf(path, tmp_path / "out")


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<QQ", 2**60, 1),
        struct.pack("<QQ", 0, 2**60),
        struct.pack("<QQQ", 0, 1, 2**50),
        struct.pack("<QQQ", 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**60),
        struct.pack("<QQQ", 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 2),
        struct.pack("<QQQ", 0, 1, 1) + b"a" + struct.pack("<I", 99),
    ],
)
def test_a_hostile_header_is_refused_at_once(rest, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + rest)
    with pytest.raises(CheckpointError, match="no sound GGUF file"):
        GgufFile(path)
