"""A merged adapter equals PEFT's own reload of its files, or is refused by the option's name."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.families import make, make_multimodal
from support.serving import tiny_tokenizer
from transformers import AutoModelForCausalLM

from nlakit.errors import CheckpointError
from nlakit.models.io import load_backbone, stored_dtype
from nlakit.models.lora import ADAPTER_NAME, CONFIG_NAME, open_checkpoint
from nlakit.models.target import Target

VOCABULARY = 64
IDS = torch.tensor([[5, 7, 11, 3, 9]])
KINDS = ("llama", "qwen2", "gemma3_text", "gpt2", "phi3", "gpt_neox")
# Linear maps of a block that two layers share a shape of, and norms, per kind.
TARGETS = {
    "gpt2": (["c_attn", "c_proj"], "ln_1"),
    "phi3": (["qkv_proj", "down_proj"], "input_layernorm"),
    "gpt_neox": (["query_key_value", "dense"], "input_layernorm"),
}
LLAMA = (["q_proj", "v_proj", "down_proj"], "input_layernorm")


def trained(directory: Path, kind: str, config: dict[str, Any], tied: bool = False) -> Path:
    """A base in `directory/base` and an adapter in `directory/adapter`, every tensor random."""
    torch.manual_seed(3)
    base = make(kind, VOCABULARY)
    base.config.tie_word_embeddings = tied
    if not tied:
        base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight))
    base.save_pretrained(directory / "base")
    base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"r": 3, "lora_alpha": 7, "task_type": "CAUSAL_LM", **config}
        model = peft.get_peft_model(base, peft.LoraConfig(**options))
        randomize(model)
        model.save_pretrained(directory / "adapter")
    return directory


@torch.no_grad()
def randomize(model: Any) -> None:
    """Fresh adapters change nothing."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def refused(directory: Path, found: str) -> None:
    with pytest.raises(CheckpointError, match=found):
        load_backbone(directory / "base", adapter=directory / "adapter")


def assert_as_peft(directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
        plain = base(IDS).logits
        theirs = peft.PeftModel.from_pretrained(base, str(directory / "adapter")).eval()
    with torch.no_grad():
        expected = theirs(IDS, output_hidden_states=True)
    assert not torch.allclose(expected.logits, plain, atol=1e-2)
    mine = load_backbone(directory / "base", adapter=directory / "adapter")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mine(IDS, output_hidden_states=True)
        merged = theirs.merge_and_unload()(IDS, output_hidden_states=True)
    states = zip(
        (*found.hidden_states, found.logits),
        (*expected.hidden_states, expected.logits),
        (*merged.hidden_states, merged.logits),
        strict=True,
    )
    for one, two, three in states:
        # Some random models amplify rounding: PEFT's own merge, where it can, tells how much.
        size, rounding = max(1.0, float(two.abs().max())), float((three - two).abs().max())
        most = max(1e-5 * size, 8 * rounding if rounding < 1e-4 * size else 0.0)
        assert (one - two).abs().max() < most


@st.composite
def adapters(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(KINDS))
    targets, norm = TARGETS.get(kind, LLAMA)
    chosen = draw(st.lists(st.sampled_from(targets), min_size=1, unique=True))
    one = chosen[0]
    return kind, {
        "target_modules": draw(st.sampled_from([chosen, rf".*\.({'|'.join(chosen)})"])),
        "r": draw(st.integers(1, 6)),
        "lora_alpha": draw(st.sampled_from([1, 8, 13])),
        "use_rslora": draw(st.booleans()),
        "bias": draw(st.sampled_from(["none", "all", "lora_only"])),
        "rank_pattern": draw(st.sampled_from([{}, {one: 2}, {f"1.self_attn.{one}": 5}])),
        "alpha_pattern": draw(st.sampled_from([{}, {one: 3}, {one.replace("_", "."): 2}])),
        "layers_to_transform": draw(st.sampled_from([None, 1, [0, 2]])),
        "modules_to_save": draw(st.sampled_from([None, [norm], ["lm_head"], [norm, "lm_head"]])),
        "init_lora_weights": draw(st.sampled_from([True, False, "gaussian"])),
    }  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(adapter=adapters())
def test_an_adapter_is_merged_as_peft_computes_it(adapter, tmp_path_factory):
    kind, config = adapter
    if isinstance(config["target_modules"], str):
        config["layers_to_transform"] = None
    directory = trained(tmp_path_factory.mktemp("adapter"), kind, config, tied=False)
    saved = config["modules_to_save"] or []
    # A saved module with a bias, trained twice over, which PEFT does not read back.
    if config["bias"] == "all" and kind.startswith("gpt") and TARGETS[kind][1] in saved:
        refused(directory, "bias is")
    else:
        assert_as_peft(directory)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_saved_norms_and_biases(kind, bias, tmp_path):
    targets, norm = TARGETS.get(kind, LLAMA)
    config = {"target_modules": targets, "bias": bias, "modules_to_save": [norm]}
    directory = trained(tmp_path, kind, config)
    if kind == "gpt2" and bias == "all":
        refused(directory, "bias is 'all'")
    else:
        assert_as_peft(directory)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora", "orthogonal"])
def test_starts_that_change_the_base_are_refused(start, tmp_path):
    config = {"target_modules": ["q_proj"], "init_lora_weights": start, "r": 4}
    directory = trained(tmp_path, "qwen2", config)
    if start == "orthogonal":
        assert_as_peft(directory)
    else:
        refused(directory, f"init_lora_weights is '{start}'.*changing the base.*merge_and_unload")


@pytest.mark.parametrize(
    ("option", "config"),
    [
        ("use_dora", {"use_dora": True}),
        ("lora_bias", {"lora_bias": True, "target_modules": ["q_proj"]}),
        ("trainable_token_indices", {"trainable_token_indices": [1, 2]}),
        ("layer_replication", {"layer_replication": [[0, 2], [1, 3]]}),
        ("alora_invocation_tokens", {"alora_invocation_tokens": [4, 5]}),
        ("rank_pattern", {"rank_pattern": {".*q_proj": 2}}),
    ],
)
def test_options_that_are_not_merged_are_refused_by_name(option, config, tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"], **config})
    refused(directory, f"{option} is ")


@pytest.mark.parametrize("option", ["use_tomorrows_idea", "corda_config", "use_bdlora"])
def test_an_option_that_nobody_here_knows_is_refused(option, tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    change_config(directory, **{option: {"a": 1}})
    refused(directory, f"{option} is")
    change_config(directory, **{option: None})
    assert_as_peft(directory)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
)
def test_one_matrix_for_embedding_and_head_is_not_changed_alone(config, tmp_path):
    directory = trained(tmp_path, "llama", config, tied=True)
    refused(directory, "in the base is one matrix")


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_saved_beside_the_factors(tied, tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj", "v_proj"]}, tied)
    edit(directory, {"base_model.model.model.embed_tokens.weight": torch.randn(VOCABULARY, 32)})
    assert_as_peft(directory)


def test_an_embedding_that_was_resized(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]}, tied=True)
    edit(directory, {"base_model.model.model.embed_tokens.weight": torch.randn(VOCABULARY + 3, 32)})
    refused(directory, r"shape \(67, 32\), the base has \(64, 32\).*resized embedding")


def test_square_matrices_are_turned_by_their_kind_and_not_by_the_config(tmp_path):
    directory = trained(tmp_path, "gpt2", {"target_modules": ["attn.c_proj"]})
    change_config(directory, fan_in_fan_out=False)
    assert_as_peft(directory)


def test_an_adapter_of_a_multimodal_model_on_its_language_model(tmp_path):
    whole = make_multimodal(VOCABULARY)
    whole.save_pretrained(tmp_path / "base")
    pattern = r".*language_model.*\.(q_proj|down_proj)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(whole, peft.LoraConfig(r=2, target_modules=pattern))
    randomize(model)
    model.save_pretrained(tmp_path / "adapter")
    mine = load_backbone(tmp_path / "base", adapter=tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(mine(IDS).logits, model(input_ids=IDS).logits, atol=1e-4)
        cut = load_backbone(tmp_path / "base", 2, headless=True, adapter=tmp_path / "adapter")
        inner = model(input_ids=IDS, output_hidden_states=True).hidden_states[2]
        assert torch.allclose(cut(IDS).last_hidden_state, inner, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"r": 5}, "says rank 5 and lora_alpha 7 .* factors are .3, 32. and .32, 3."),
        ({"target_modules": ["k_proj"]}, "q_proj, which .* does not name among its target"),
        ({"layers_to_transform": [0]}, "layers.1.self_attn.q_proj, which .* does not name"),
        ({"lora_alpha": "7"}, "lora_alpha '7'"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"peft_type": "LOHA"}, "only LORA adapters are merged"),
    ],
)
def test_config_and_factors_of_two_adapters(change, found, tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    change_config(directory, **change)
    refused(directory, found)


def test_factors_that_are_not_finite(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    key = f"base_model.model.{FIRST}.lora_A.weight"
    edit(directory, {key: torch.full((3, 32), float("nan"))})
    refused(directory, "q_proj.weight holds NaN")


@pytest.mark.parametrize("saved", [True, False])
def test_a_merge_past_float16_says_which_dtype_to_use(saved, tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    changes = {f"base_model.model.{FIRST}.lora_{half}.weight": torch.full(shape, 300.0)
               for half, shape in {"A": (3, 32), "B": (32, 3)}.items()}  # fmt: skip
    whole = {"base_model.model.model.norm.weight": torch.full((32,), 1e5)}
    edit(directory, whole if saved else changes)
    adapter = directory / "adapter"
    with pytest.raises(CheckpointError, match="more than float16 can represent.*bfloat16"):
        load_backbone(directory / "base", dtype=torch.float16, adapter=adapter)
    load_backbone(directory / "base", dtype=torch.bfloat16, adapter=adapter)


def test_a_pickled_adapter_is_called_so(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    (directory / "adapter" / ADAPTER_NAME).rename(directory / "adapter" / "adapter_model.bin")
    refused(directory, "adapter_model.bin is pickled")


def test_a_target_may_be_an_adapter_on_the_base_that_it_names(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    tiny_tokenizer().save_pretrained(directory / "adapter")
    change_config(directory, base_model_name_or_path=str(directory / "base"))
    target = Target.load(directory / "adapter", 1)
    mine = load_backbone(directory / "base", adapter=directory / "adapter")
    assert torch.equal(target.model(IDS).logits, mine(IDS).logits)
    assert stored_dtype(directory / "adapter") is torch.float32


def test_an_adapter_on_a_revision_is_refused(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    change_config(directory, base_model_name_or_path="owner/name", revision="v2")
    with pytest.raises(CheckpointError, match="revision is 'v2'.*Download that revision of owner"):
        open_checkpoint(directory / "adapter")


def test_an_adapter_on_an_adapter_is_refused(tmp_path):
    directory = trained(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    shutil.copytree(directory / "adapter", directory / "upper")
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        open_checkpoint(directory / "upper", directory / "adapter")


FIRST = "model.layers.0.self_attn.q_proj"


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "adapter" / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit(directory: Path, changes: dict[str, torch.Tensor]) -> None:
    path = directory / "adapter" / ADAPTER_NAME
    save_file(load_file(path) | changes, path)
