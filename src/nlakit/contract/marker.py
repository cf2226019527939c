"""Finds the character that stands for a vector in the verbalizer's prompt.

It must be one token of the tokenizer wherever it stands, and come out of the chat template once,
with a token on either side. A rare one is wanted: texts that hold it would meet it untrained.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nlakit.contract.encoding import encode_ids
from nlakit.contract.render import measure_tokens
from nlakit.contract.schema import Tokens
from nlakit.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"
ENCLOSED = range(0x3200, 0x3400)
"""Enclosed letters and squared units, looked at first: few texts have them, many tokenizers do."""
CATEGORIES = ("So", "Sm", "Sc", "Lo")
"""Unicode's symbols, and letters without case: kinds of characters that may mark, best first."""
UNFIT = frozenset("\u2800\ufffd")
"""Symbols that nobody reads as one: braille without dots, and what stands for broken bytes."""


def find_marker(
    tokenizer: PreTrainedTokenizerBase, av_template: str, ar_template: str
) -> tuple[str, Tokens]:
    """The rarest character that fits, and what a contract with it says of the tokenizer.

    Of a vocabulary made by merging, the later tokens are the rarer ones.

    Raises:
        ContractError: no chat template, or no character of the whole vocabulary fits.
    """
    tried, failure = 0, None
    for character in _candidates(tokenizer):
        try:
            return character, measure_tokens(tokenizer, character, av_template, ar_template)
        except ContractError as error:
            if error.field == "tokenizer.chat_template":
                raise
            tried, failure = tried + 1, failure or error
    raise ContractError(
        field="tokens.injection_char",
        found=f"{tried} characters that are one token, none of which the template keeps",
        expected="a character that is one token, once in the prompt",
        hint="" if failure is None else f"Of the first: found {failure.found}.",
    )


def _candidates(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    yield from (c for c in map(chr, ENCLOSED) if _is_one_token(tokenizer, c))
    found: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    special = set(tokenizer.all_special_ids)
    for token_id in sorted(set(tokenizer.get_vocab().values()) - special, reverse=True):
        text = str(tokenizer.decode([token_id])).strip()
        if len(text) == 1 and text > "\x7f" and text not in UNFIT:
            found.get(unicodedata.category(text), []).append(text)
    for character in dict.fromkeys(c for category in CATEGORIES for c in found[category]):
        if ord(character) not in ENCLOSED and _is_one_token(tokenizer, character):
            yield character


def _is_one_token(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    ids = encode_ids(tokenizer, character)
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id
