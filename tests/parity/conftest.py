"""A small tokenizer and random models of each family, made in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, measure_tokens

AV_PROMPT = "Here is a vector: <concept>{injection_char}</concept> Please provide an explanation."
AR_PROMPT = "Summary of the following text: <text>{explanation}</text> <summary>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKER = "㈎"
CORPUS = [AV_PROMPT, AR_PROMPT, "the cat sat on the mat", "<explanation>a cat</explanation>"]
FAMILY_OPTIONS = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "mistral": {"tie_word_embeddings": False, "head_dim": 16, "sliding_window": None},
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([MARKER])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT
    return fast


@pytest.fixture(params=sorted(FAMILY_OPTIONS))
def model(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> Any:
    return tiny_model(request.param, len(tokenizer))


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerBase) -> Any:
    return tiny_model("llama", len(tokenizer))


@pytest.fixture(scope="session")
def av_meta(tokenizer: PreTrainedTokenizerBase) -> NlaMeta:
    return meta_for("av", tokenizer)


@pytest.fixture(scope="session")
def ar_meta(tokenizer: PreTrainedTokenizerBase) -> NlaMeta:
    return meta_for("ar", tokenizer)


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(5)) * 7


def tiny_model(model_type: str, vocab_size: int) -> Any:
    """A random model whose logits are spread enough for greedy choices to be clear."""
    config = AutoConfig.for_model(
        model_type,
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        **FAMILY_OPTIONS[model_type],
    )
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def meta_for(role: str, tokenizer: PreTrainedTokenizerBase) -> NlaMeta:
    return NlaMeta.model_validate(
        {
            "role": role,
            "d_model": 32,
            "extraction": Extraction(layer_index=1, injection_scale=5.0),
            "tokens": measure_tokens(tokenizer, MARKER, AV_PROMPT, AR_PROMPT),
            "prompt_templates": PromptTemplates(av=AV_PROMPT, ar=AR_PROMPT),
        }
    )
