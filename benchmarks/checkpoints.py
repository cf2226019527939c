"""Seeded random checkpoints, made on the spot: what is timed does not depend on what was learned.

    python -m benchmarks.checkpoints S V      make those of `specs` under runs/bench

The verbalizer's prompt has the shape of the reference's: 111 tokens stand before the slot and 13
after it. The tokenizer is a storyworld BPE, filled up with words of an invented language. The tags
are ordinary text of several tokens, so that, EOS aside, random answers do not end by chance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, measure_tokens, render_av
from nlakit.contract.schema import Role
from nlakit.core.site import Site
from nlakit.engines.local import LocalEngine
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.grammar import generate
from nlakit.worlds.storyworld.target import special_ids
from nlakit.worlds.storyworld.tokenizer import MARKER, TAGS, train_tokenizer

from .specs import PREFIX_TOKENS, SPECS, SUFFIX_TOKENS, Spec

CONTEXT = 4096
TOKENIZER_DOCUMENTS, TRAINED_VOCABULARY = 1500, 8000
INJECTION_SCALE = 4.0
HEAD_NOISE = 0.01
CONSONANTS, VOWELS = "бвгджзклмнпрстфхцчшщ", "аеиоуыэюя"
INSTRUCTION = (
    "You are shown one activation of a language model. It was read while the model was in the "
    "middle of a text. Say in plain words what the model is thinking of."
)
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"


def ensure(name: str) -> Path:
    """The directory with `target`, `av` and `ar` of a model, made if need be (bf16)."""
    spec = SPECS[name]
    if not (spec.directory / "ar").exists():
        engine = build(spec)
        assert engine.target is not None
        engine.target.save(spec.directory / "target", torch.bfloat16)
        engine.verbalizer.save(spec.directory / "av", torch.bfloat16)
        engine.reconstructor.save(spec.directory / "ar", torch.bfloat16)
    return spec.directory


def build(
    spec: Spec, device: str = "cpu", dtype: torch.dtype = torch.float32, max_rows: int = 64
) -> LocalEngine:
    """Target, verbalizer and reconstructor in memory, each with weights of its own."""
    tokenizer = make_tokenizer(spec.vocab_size)
    target, verbalizer, backbone = (
        random_model(spec, tokenizer, seed, device, dtype) for seed in (1, 2, 3)
    )
    reconstructor = Reconstructor.from_target(backbone, tokenizer, make_meta(spec, tokenizer, "ar"))
    with torch.no_grad():
        head = reconstructor.head.weight
        # Not the identity, whose transpose is itself.
        head.add_(torch.randn(head.shape, generator=seeded(4)).to(head.device) * HEAD_NOISE)
    return LocalEngine(
        Target(target, tokenizer, Site(spec.layer)),
        Verbalizer(verbalizer, tokenizer, make_meta(spec, tokenizer, "av")),
        reconstructor,
        max_rows,
    )


def load_verbalizer(name: str, dtype: torch.dtype = torch.float32) -> Verbalizer:
    """A verbalizer whose answers never end: on every side the work is the same, and known."""
    verbalizer = Verbalizer.load(SPECS[name].directory / "av", dtype)
    verbalizer.eos_ids = []
    return verbalizer


def load_reconstructor(name: str, dtype: torch.dtype = torch.float32) -> Reconstructor:
    """The reconstructor on disk."""
    return Reconstructor.load(SPECS[name].directory / "ar", dtype)


def load_target(name: str, dtype: torch.dtype = torch.float32) -> Target:
    """The target on disk."""
    return Target.load(SPECS[name].directory / "target", SPECS[name].layer, dtype)


def vectors(spec: Spec, count: int, seed: int = 5) -> Tensor:
    """Activations to explain: random, N x D."""
    return torch.randn(count, spec.d_model, generator=seeded(seed)) * 3


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def random_model(
    spec: Spec, tokenizer: PreTrainedTokenizerFast, seed: int, device: str, dtype: torch.dtype
) -> Any:
    """A causal language model that has learned nothing."""
    config = AutoConfig.for_model(
        spec.model_type,
        vocab_size=spec.vocab_size,
        hidden_size=spec.d_model,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        max_position_embeddings=CONTEXT,
        # Keeps the residual's size from block to block, and the logits' spread near one.
        initializer_range=spec.d_model**-0.5,
        tie_word_embeddings=False,
        **special_ids(tokenizer),
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    # TRL and vLLM choose their code by it.
    model.config.architectures = [type(model).__name__]
    return model


def make_meta(spec: Spec, tokenizer: PreTrainedTokenizerFast, role: Role) -> NlaMeta:
    """The contract of one of the pair."""
    template = av_template(tokenizer)
    return NlaMeta(
        role=role,
        d_model=spec.d_model,
        extraction=Extraction(
            base_model=f"random/{spec.name}",
            layer_index=spec.layer,
            injection_scale=INJECTION_SCALE,
        ),
        tokens=measure_tokens(tokenizer, MARKER, template, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=template, ar=AR_TEMPLATE),
    )


@cache
def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A storyworld tokenizer of exactly `vocab_size` entries."""
    texts = (made.text for made in islice(generate(1, "train"), TOKENIZER_DOCUMENTS))
    trained = train_tokenizer(texts, min(vocab_size, TRAINED_VOCABULARY), CONTEXT)
    raw = json.loads(trained.backend_tokenizer.to_str())
    raw["added_tokens"] = [each for each in raw["added_tokens"] if each["content"] not in TAGS]
    vocabulary, merges = raw["model"]["vocab"], raw["model"]["merges"]
    for pair in islice(made_up_merges(), vocab_size - len(vocabulary)):
        vocabulary["".join(pair)] = len(vocabulary)
        merges.append(list(pair))
    assert len(vocabulary) == vocab_size
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)),
        bos_token=trained.bos_token,
        eos_token=trained.eos_token,
        pad_token=trained.pad_token,
        chat_template=trained.chat_template,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def made_up_merges() -> Iterator[tuple[str, str]]:
    """Merges to words of an invented language, in letters that the storyworld has not.

    Syllables are a consonant and a vowel, so that a word can be cut in one way only: what a random
    model says in these words comes back as as many tokens.
    """
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = {each: to_bytes.pre_tokenize_str(each)[0][0] for each in CONSONANTS + VOWELS}
    yield from ((each[0], each[1]) for each in letters.values())
    parts = [(letters[c], letters[v]) for c, v in product(CONSONANTS, VOWELS)]
    yield from parts
    syllables = ["".join(pair) for pair in parts]
    words = []
    for starts in (["Ġ"], ["Ġ" + each for each in syllables]):
        pairs = list(product(starts, syllables))
        words = ["".join(pair) for pair in pairs]
        yield from pairs
    yield from product(words, syllables)


def av_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """A prompt of exactly `PREFIX_TOKENS` before the slot and `SUFFIX_TOKENS` after it."""
    before, after = INSTRUCTION, ""
    while True:
        template = f"{before} <concept>{{injection_char}}</concept>{after}"
        num_before, num_after = prompt_shape(tokenizer, template)
        if (num_before, num_after) == (PREFIX_TOKENS, SUFFIX_TOKENS):
            return template
        if num_before > PREFIX_TOKENS or num_after > SUFFIX_TOKENS:
            raise AssertionError(f"The prompt has {num_before} and {num_after} tokens.")
        # Filler: one token a word.
        before += " the" * (num_before < PREFIX_TOKENS)
        after += " the" * (num_after < SUFFIX_TOKENS)


def prompt_shape(tokenizer: PreTrainedTokenizerFast, template: str) -> tuple[int, int]:
    """Tokens before and after the slot."""
    meta = NlaMeta(
        role="av",
        d_model=1,
        extraction=Extraction(layer_index=0, injection_scale=1.0),
        tokens=measure_tokens(tokenizer, MARKER, template, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=template),
    )
    prefix_ids, suffix_ids = render_av(meta, tokenizer)
    return len(prefix_ids), len(suffix_ids)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        ensure(each)
