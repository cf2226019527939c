"""The one-file recipe for a Hugging Face model: all stages run on a tiny one, and it learns."""

from __future__ import annotations

import importlib.util
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from support.serving import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from nlakit.storyworld.grammar import generate

RECIPE = Path(__file__).parents[2] / "recipes" / "minimal_hf.py"
pytestmark = pytest.mark.e2e


@pytest.fixture
def recipe(monkeypatch):
    spec = importlib.util.spec_from_file_location("minimal_hf", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "minimal_hf", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path) -> str:
    """Three random blocks with a real tokenizer, as a directory."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_whole_method_runs_on_a_model_directory_and_fits_on_a_few_pages(recipe, model, capsys):
    texts = [made.text for made in islice(generate(1, "train"), 48)]
    sizes = {"max_tokens": 24, "positions": 3, "words": 36, "batch": 8, "group": 2}
    options = recipe.Options(**sizes, warm_steps=60, rl_steps=2, rate=3e-3)
    found = recipe.run(model, texts, options)
    assert list(found) == ["untrained", "warm start", "joint RL"]
    warm = found["warm start"]
    assert warm["labels"] > found["untrained"]["labels"] + 0.1
    assert warm["labels"] > max(warm["mean"], warm["empty"])
    assert "\n   AV " in capsys.readouterr().out
    assert RECIPE.read_text(encoding="utf-8").count("\n") <= 300
