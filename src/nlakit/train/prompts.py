"""The prompts of a new NLA. Short: the tokens after the slot are paid for every vector.

The verbalizer of a released model starts from one that follows instructions, and is told more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlakit.contract import AUTO, Tokens, find_marker, measure_tokens
from nlakit.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = "㈎"
AV_TEMPLATE = "Activation: <concept>{injection_char}</concept> Please provide an explanation."
INSTRUCTED_AV_TEMPLATE = (
    "Between the tags below, the place of a word is taken by an activation: the state of a "
    "language model while it read one token of a text. Say what the model was thinking of there: "
    "two or three features, the most important first, the last about the token itself and what "
    "must come next. Answer within <explanation> tags. Activation: "
    "<concept>{injection_char}</concept> Please provide an explanation."
)
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"


def model_tokens(
    tokenizer: PreTrainedTokenizerBase, marker: str, checkpoint: str, recipe: str
) -> Tokens:
    """What the contract of a new NLA of `checkpoint` says of its tokenizer.

    Args:
        marker: a character; "auto" finds one.

    Raises:
        ConfigError: no chat template, or a marker that is not one token; names one that is.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{recipe}: target.checkpoint = {checkpoint!r} has no chat template, and the AV's "
            "prompt is a turn of a conversation. Give a model made for chat."
        )
    templates = (INSTRUCTED_AV_TEMPLATE, AR_TEMPLATE)
    try:
        if marker == AUTO:
            return find_marker(tokenizer, *templates)[1]
        return measure_tokens(tokenizer, marker, *templates)
    except ContractError as error:
        advice = "Give target.marker=CHARACTER." if marker == AUTO else _advice(tokenizer)
        raise ConfigError(
            f"{recipe}: target.marker = {marker!r} cannot stand for a vector in the prompts of "
            f"{checkpoint}: found {error.found}, expected {error.expected}. {advice}"
        ) from error


def _advice(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        found, _ = find_marker(tokenizer, INSTRUCTED_AV_TEMPLATE, AR_TEMPLATE)
    except ContractError as error:
        return str(error)
    return f"Give target.marker={found}."
