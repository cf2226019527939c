"""Ours equals what transformers' `from_pretrained` loads, tensor by tensor, or is refused.

Layouts are drawn: one file or shards, stale files beside them, tied and untied models with any
head, prefixes, padded vocabularies, stored types. Where transformers would fill a weight with
random numbers and warn, we must refuse.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.families import make, make_multimodal
from transformers import AutoModelForCausalLM

from nlakit.errors import CheckpointError
from nlakit.models.families import FAMILIES, family_of
from nlakit.models.io import load_backbone, load_config, save_model, stored_dtype
from nlakit.models.weights import INDEX_NAME, WEIGHTS_NAME, embedding_name

VOCABULARY = 64
KINDS = ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "phi3", "mistral", "gemma3")
Tensors = dict[str, torch.Tensor]


def built(kind: str, vocabulary: int = VOCABULARY) -> Any:
    return make_multimodal(vocabulary) if kind == "gemma3" else make(kind, vocabulary)


def written(directory: Path, kind: str, tied: bool) -> Tensors:
    """Config and weights of a random model; returns the weights, its head and embedding two."""
    model = built(kind)
    model.config.tie_word_embeddings = tied
    model.config.save_pretrained(directory)
    tensors = {name: t.clone() for name, t in model.state_dict().items()}
    head = torch.randn(tensors["lm_head.weight"].shape, generator=torch.Generator().manual_seed(9))
    return {**tensors, "lm_head.weight": head}


def put(directory: Path, tensors: Tensors, shards: int) -> None:
    """Write one file, or an index and its shards."""
    ready = {name: t.contiguous().clone() for name, t in tensors.items()}
    if shards == 1:
        save_file(ready, directory / WEIGHTS_NAME, metadata={"format": "pt"})
        return
    names = sorted(ready)
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors"
             for i, name in enumerate(names)}  # fmt: skip
    for file in set(where.values()):
        part = {name: ready[name] for name in names if where[name] == file}
        save_file(part, directory / file, metadata={"format": "pt"})
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def theirs(directory: Path, dtype: torch.dtype) -> Any | None:
    """The model that transformers loads; None where it refuses, or makes weights up and warns."""
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, output_loading_info=True
        )
    except (OSError, RuntimeError):
        return None
    return None if info["missing_keys"] or info["mismatched_keys"] else model


def language_model(state: Tensors) -> Tensors:
    """Of a multimodal model's weights those of its language model, under its own names."""
    if not any("language_model." in name for name in state):
        return state
    return {
        name.replace("language_model.", ""): tensor
        for name, tensor in state.items()
        if "language_model." in name or name.startswith("lm_head.")
    }


def assert_as_theirs(directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Ours has their tensors, logits and residuals; or both find that something is missing."""
    other = theirs(directory, dtype)
    if other is None:
        with pytest.raises(CheckpointError):
            load_backbone(directory, dtype=dtype)
        return
    mine = load_backbone(directory, dtype=dtype)
    expected, found = language_model(other.state_dict()), mine.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    ids = torch.tensor([[5, 7, 11, 3]])
    assert torch.equal(mine(ids).logits, other(ids).logits)
    cut = load_backbone(directory, 2, dtype, headless=True)
    site = other(ids, output_hidden_states=True).hidden_states[2]
    assert torch.equal(cut(ids).last_hidden_state, site)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": draw(st.sampled_from(KINDS)),
        "tied": draw(st.booleans()),
        "head": draw(st.sampled_from(["own", "same", "absent", "alone"])),
        "shards": draw(st.sampled_from([1, 2, 3])),
        "prefix": draw(st.sampled_from(["own", "none", "wrapped", "old-wrapped", "module."])),
        "beside": draw(st.sampled_from(["nothing", "old shards", "old file"])),
        "fault": draw(st.sampled_from(["none", "none", "missing shard", "missing weight", "rows"])),
        "stored": draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16])),
    }


def with_prefix(tensors: Tensors, prefix: str, backbone: str) -> Tensors:
    body = f"{backbone}."
    renamed = {
        "own": lambda name: name,
        "none": lambda name: name.removeprefix(body),
        "wrapped": lambda name: name.replace(body, "model.language_model.", 1),
        "old-wrapped": lambda name: f"language_model.{name}",
        "module.": lambda name: f"module.{name}",
    }[prefix]
    return {renamed(name): tensor for name, tensor in tensors.items()}


def lay_out(directory: Path, layout: dict[str, Any]) -> None:
    tensors = written(directory, layout["kind"], layout["tied"])
    family = family_of("gemma3_text" if layout["kind"] == "gemma3" else layout["kind"])
    embedding = next(n for n in tensors if n.endswith(embedding_name(family).split(".", 1)[1]))
    if layout["head"] == "same":
        tensors["lm_head.weight"] = tensors[embedding]
    elif layout["head"] == "absent":
        del tensors["lm_head.weight"]
    elif layout["head"] == "alone":
        del tensors[embedding]
    if layout["fault"] == "missing weight":
        del tensors[next(name for name in sorted(tensors) if ".1." in name)]
    if layout["fault"] == "rows" and embedding in tensors:
        tensors[embedding] = tensors[embedding][:-3]
    if layout["kind"] != "gemma3":
        tensors = with_prefix(tensors, layout["prefix"], family.backbone)
    tensors = {name: t.to(layout["stored"]) for name, t in tensors.items()}
    if layout["beside"] != "nothing":
        old = {name: t + 1 for name, t in tensors.items()}
        put(directory, old, 2 if layout["beside"] == "old shards" else 1)
    put(directory, tensors, layout["shards"])
    if layout["fault"] == "missing shard" and layout["shards"] > 1:
        os.remove(directory / f"model-00001-of-{layout['shards']:05}.safetensors")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layout=layouts())
def test_a_layout_is_loaded_as_transformers_does_or_refused(layout, tmp_path_factory):
    directory = tmp_path_factory.mktemp("layout")
    lay_out(directory, layout)
    assert_as_theirs(directory, layout["dtype"])


def test_an_untied_head_is_written_and_read_again(tmp_path, tokenizer):
    put(tmp_path, written(tmp_path, "qwen2", tied=True), 1)
    model = load_backbone(tmp_path)
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", model, tokenizer, None)
    assert load_config(tmp_path / "again").tie_word_embeddings is False
    assert torch.equal(load_backbone(tmp_path / "again").lm_head.weight, model.lm_head.weight)


def test_the_files_say_the_dtype_where_the_config_does_not(tmp_path):
    tensors = written(tmp_path, "llama", tied=False)
    put(tmp_path, {name: t.bfloat16() for name, t in tensors.items()}, 1)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert stored_dtype(tmp_path) is torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype is torch.bfloat16


def test_every_family_is_drawn():
    assert {*KINDS} == {*FAMILIES, "gemma3"}
