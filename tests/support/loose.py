"""Tiny released pairs: an AV and an AR beside a target, of families and tokenizers not ours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.grammar import generate
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE

from .families import D_MODEL, make

CONTEXT, MARKER = 1024, "㈎"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
FAMILIES = ("qwen2", "llama")


def texts() -> Iterator[str]:
    return (made.text for made in islice(generate(1, "train"), 60))


@lru_cache(maxsize=2)
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """qwen2: bytes, no BOS, ChatML. llama: pieces with a mark for spaces, a BOS, [INST]."""
    return _byte_level() if family == "qwen2" else _pieces()


def _byte_level() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=560,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts(), trainer)
    made.add_tokens([AddedToken(MARKER, special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        model_max_length=CONTEXT,
    )


def _pieces() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=640, special_tokens=specials, show_progress=False)
    made.train_from_iterator(texts(), trainer)
    made.add_tokens([AddedToken(MARKER, special=False, normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        chat_template=INSTRUCT,
        model_max_length=CONTEXT,
    )


def target_of(family: str) -> Target:
    """Three random blocks, read after the second."""
    tokenizer = tokenizer_of(family)
    model = make(family, len(tokenizer))
    model.config.max_position_embeddings = CONTEXT
    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Target(model, tokenizer, Site(1))


def save_pair(directory: Path, family: str) -> Path:
    """`av/`, `ar/` and `base/`, in the released layout: no card, no mean, nothing beside them."""
    target = target_of(family)
    target.save(directory / "base")
    verbalizer = Verbalizer.from_target(target.model, target.tokenizer, _meta("av", target))
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, _meta("ar", target))
    with torch.no_grad():
        # What it rebuilds is then not what the target makes of the same words.
        reconstructor.head.weight.add_(
            torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(1))
        )
    verbalizer.save(directory / "av")
    reconstructor.save(directory / "ar")
    return directory


def _meta(role: Role, target: Target) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=D_MODEL,
        extraction=Extraction(layer_index=1, injection_scale=5.0),
        tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )
