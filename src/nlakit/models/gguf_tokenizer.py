"""The tokenizer of a GGUF file, built as the original checkpoint's is.

A file holds the vocabulary and says by a name how text is cut before it is merged. What the name
stands for is known to those who made the checkpoint; a name that is not in the table is refused,
since another cut gives other ids without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from nlakit.errors import CheckpointError

SPACE = "\u2581"
CONTROL, USER_DEFINED = 3, 4
"""In `tokenizer.ggml.token_type`: special tokens, and others that are matched whole."""
NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
MORE_ENDINGS = ("eot", "eom")
"""End of a turn and of a message, where they are not EOS."""

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


class ByteLevel(NamedTuple):
    """How a byte-level vocabulary cuts text.

    Attributes:
        words: a regular expression of what is merged together; None: GPT-2's.
        digits: every digit stands alone before that.
        composed: text is brought to NFC first.
        whole_words: a word that is a token is not merged from pieces.
        adds_bos: where the file does not say.
    """

    words: str | None = None
    digits: bool = False
    composed: bool = False
    whole_words: bool = False
    adds_bos: bool = False


LLAMA3 = ByteLevel(LLAMA3_WORDS, whole_words=True, adds_bos=True)
QWEN2 = ByteLevel(QWEN2_WORDS, composed=True)
BYTE_LEVEL: dict[str, ByteLevel] = {
    "gpt-2": ByteLevel(),
    "smollm": ByteLevel(digits=True),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
"""By `tokenizer.ggml.pre`."""


def tokenizer_of(facts: Mapping[str, Any], architecture: str) -> PreTrainedTokenizerFast:
    """The tokenizer that a file's metadata describes, chat template included.

    Args:
        architecture: `general.architecture`: Gemma's sentencepiece differs from Llama's.

    Raises:
        CheckpointError: a vocabulary of a kind that is not read, or a broken one.
    """
    kind = facts.get("tokenizer.ggml.model")
    build = {"gpt2": _byte_level, "llama": _sentencepiece}.get(kind) if kind else None
    if build is None:
        raise CheckpointError(
            f"tokenizer.ggml.model is {kind!r}; vocabularies of gpt2 and llama are read from GGUF. "
            "Give the original checkpoint."
        )
    tokens = _list_of(facts, "tokens", str)
    try:
        backend, adds_bos = build(facts, tokens, architecture)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"tokenizer.ggml holds a broken vocabulary: {error}") from error
    _add_tokens(backend, facts, tokens)
    names = {ours: _token(facts, theirs, tokens) for theirs, ours in NAMED.items()}
    if facts.get("tokenizer.ggml.add_bos_token", adds_bos) and names["bos_token"]:
        _add_bos(backend, names["bos_token"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_text(facts, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in names.items() if token is not None},
    )


def endings_in(facts: Mapping[str, Any]) -> list[int]:
    """Ids that end what the model writes: EOS, and the end of a turn where that is another."""
    found = [facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", *MORE_ENDINGS)]
    return list(dict.fromkeys(each for each in found if isinstance(each, int)))


def _byte_level(
    facts: Mapping[str, Any], tokens: list[str], architecture: str
) -> tuple[Tokenizer, bool]:
    name = facts.get("tokenizer.ggml.pre")
    if name not in BYTE_LEVEL:
        raise CheckpointError(
            f"tokenizer.ggml.pre is {name!r}: how it cuts text is not known here, and another cut "
            f"gives other ids. Known: {', '.join(BYTE_LEVEL)}. Give the original checkpoint."
        )
    how = BYTE_LEVEL[name]
    merges = [tuple(each.split(" ")) for each in _list_of(facts, "merges", str)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=how.whole_words))
    backend.normalizer = normalizers.NFC() if how.composed else None
    first: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if how.digits else []
    if how.words is not None:
        first.append(pre_tokenizers.Split(Regex(how.words), behavior="isolated"))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=how.words is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*first, last])
    backend.decoder = decoders.ByteLevel()
    return backend, how.adds_bos


def _sentencepiece(
    facts: Mapping[str, Any], tokens: list[str], architecture: str
) -> tuple[Tokenizer, bool]:
    is_gemma = architecture.startswith("gemma")
    # A run of spaces is written as spaces in these files, and looked up as marks.
    spelled = [SPACE * len(each) if each and not each.strip(" ") else each for each in tokens]
    vocabulary = {token: index for index, token in enumerate(spelled)}
    # Gemma's merges come in the order of its tokens; its scores say something else.
    ranks = [-index for index in range(len(spelled))]
    scores = ranks if is_gemma else _list_of(facts, "scores", float)
    if "tokenizer.ggml.merges" in facts:
        merges = [tuple(each.split(" ")) for each in _list_of(facts, "merges", str)]
    else:
        merges = generate_merges(vocabulary, dict(zip(spelled, scores, strict=True)))
    unknown = _token(facts, "unknown", tokens)
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefixed = not is_gemma and facts.get("tokenizer.ggml.add_space_prefix", True)
    replace: Any = normalizers.Replace(" ", SPACE)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefixed else replace
    )
    if is_gemma:
        backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    pieces: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    stripped: list[Any] = [decoders.Strip(content=" ", left=1)] if prefixed else []
    backend.decoder = decoders.Sequence([*pieces, *stripped])
    return backend, True


def _add_tokens(backend: Tokenizer, facts: Mapping[str, Any], tokens: list[str]) -> None:
    """Tokens that are matched whole; those whose spelling was changed are merged like others."""
    kinds = _list_of(facts, "token_type", int)
    known = backend.get_vocab()
    for kind, add in ((CONTROL, backend.add_special_tokens), (USER_DEFINED, backend.add_tokens)):
        chosen = [t for t, found in zip(tokens, kinds, strict=True) if found == kind and t in known]
        add([AddedToken(t, normalized=False, special=kind == CONTROL) for t in chosen])


def _add_bos(backend: Tokenizer, bos: str) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, backend.token_to_id(bos))],
    )


def _list_of(facts: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    found = facts.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise CheckpointError(f"tokenizer.ggml.{name} is not a list of {kind.__name__}.")
    return found


def _token(facts: Mapping[str, Any], name: str, tokens: list[str]) -> str | None:
    index = facts.get(f"tokenizer.ggml.{name}_token_id")
    if not isinstance(index, int):
        return None
    if not 0 <= index < len(tokens):
        raise CheckpointError(
            f"tokenizer.ggml.{name}_token_id is {index}, past the {len(tokens)} tokens."
        )
    return tokens[index]


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    found = facts.get(name)
    return found if isinstance(found, str) else None
