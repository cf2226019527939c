"""Text to token ids, with a tokenizer that several threads share.

transformers writes the options of a call (`split_special_tokens`, padding, truncation) into the
tokenizer before it encodes. Without the lock here, two calls side by side encode with each other's
options: what a person typed becomes a role token, and a template's role tokens become characters.
So every call on a tokenizer that a server may share goes through this module.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from nlakit.transcript import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One for all tokenizers: copies of one share their Rust object, and one call takes milliseconds.
_ONE_AT_A_TIME = threading.Lock()


class EncodedText(NamedTuple):
    """Token ids, and per token the characters it covers: [start, end)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_ids(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    plain: bool = False,
    add_special_tokens: bool = False,
) -> list[int]:
    """Ids of a text.

    Args:
        plain: what looks like a special token is characters like any other.
        add_special_tokens: with what the tokenizer adds of its own accord, such as BOS.

    Raises:
        UnreadableError: the text holds half of a surrogate pair.
    """
    check_unicode(text, "The text")
    with _ONE_AT_A_TIME:
        ids: Any = tokenizer.encode(text, **_options(plain, add_special_tokens))
    return list(ids)


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    plain: bool = False,
    add_special_tokens: bool = False,
) -> EncodedText:
    """`encode_ids`, with the characters that each token covers; (0, 0) for an added token."""
    check_unicode(text, "The text")
    with _ONE_AT_A_TIME:
        output: Any = tokenizer(
            text, return_offsets_mapping=True, **_options(plain, add_special_tokens)
        )
    offsets = [(int(start), int(end)) for start, end in output["offset_mapping"]]
    return EncodedText(list(output["input_ids"]), offsets)


def _options(plain: bool, add_special_tokens: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"add_special_tokens": add_special_tokens, "verbose": False}
    # Where it is left out, the checkpoint's own setting holds.
    return {**options, "split_special_tokens": True} if plain else options
