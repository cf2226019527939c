"""Trains the small byte-level BPE of a storyworld target: any text is accepted, no unknown token.

Role tokens and the injection marker are special: they cannot be spelt by user text (see
`Target.encode`). The tags of the two prompts are single tokens, but ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nlakit.train.prompts import MARKER

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = SYSTEM, USER, ASSISTANT, TOOL = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TAGS = (
    "<explanation>",
    "</explanation>",
    "<concept>",
    "</concept>",
    "<text>",
    "</text>",
    "<summary>",
)

# BOS, then one role token before each message, nothing after it: the next role token ends it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose merges are learned from `texts`.

    Args:
        texts: documents, explanations and prompts, in the proportions they will be used.
        vocab_size: size in all: 256 bytes, specials and tags included.
        context: the model's longest input, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, BOS, EOS, *ROLES, MARKER]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, specials.index(BOS))]
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[*ROLES, MARKER],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
