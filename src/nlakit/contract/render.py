"""Prompts as token ids, cut at the one place that changes.

Templates are filled by plain replacement: text from people may hold braces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nlakit.contract.schema import AR_SLOT, AV_SLOT, NlaMeta, Tokens
from nlakit.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptParts(NamedTuple):
    """Ids before and after the slot; what fills the slot is in neither."""

    prefix_ids: list[int]
    suffix_ids: list[int]


def render_av(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> PromptParts:
    """The verbalizer's prompt: one user turn through the chat template, cut at the marker.

    Raises:
        ContractError: no template, or not exactly one marker, or one at the prompt's edge.
    """
    template = _template(meta, "av")
    return _cut_chat(
        tokenizer, template, meta.tokens.injection_char, meta.tokens.injection_token_id
    )


def render_ar(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> PromptParts:
    """The reconstructor's prompt, cut at the explanation; special tokens (BOS) are included.

    What the reconstructor gets is `prefix_ids + encode(explanation) + suffix_ids`, the explanation
    encoded without special tokens. Each piece is encoded alone, so no token straddles a cut and
    the last ids never depend on how the explanation ends.
    """
    return _cut_raw(tokenizer, _template(meta, "ar"))


def measure_tokens(
    tokenizer: PreTrainedTokenizerBase, injection_char: str, av_template: str, ar_template: str
) -> Tokens:
    """What a new checkpoint's `tokens` section must say for this tokenizer and these templates.

    Raises:
        ContractError: the marker is not one token, or not exactly once in the rendered prompt.
    """
    marker_id = encode_marker(tokenizer, injection_char)
    left, right = _cut_chat(tokenizer, av_template, injection_char, marker_id)
    return Tokens(
        injection_char=injection_char,
        injection_token_id=marker_id,
        injection_left_neighbor_id=left[-1],
        injection_right_neighbor_id=right[0],
        # Clients that encode the whole string may merge the first id with the explanation's end.
        critic_suffix_ids=tuple(_cut_raw(tokenizer, ar_template).suffix_ids[1:]) or None,
    )


def encode_marker(tokenizer: PreTrainedTokenizerBase, injection_char: str) -> int:
    """The marker's id. Raises ContractError when it is several tokens, none, or unknown."""
    ids = encode(tokenizer, injection_char, special=False)
    if len(ids) != 1:
        found = f"{injection_char!r}, which is {len(ids)} tokens: {ids}"
        raise ContractError(
            field="tokens.injection_char",
            found=found,
            expected="a character that is one token",
            hint="This is another tokenizer than the checkpoint's, or the marker is too rare.",
        )
    if ids[0] == tokenizer.unk_token_id:
        found = f"{injection_char!r}, which this tokenizer does not know"
        expected = "a character other than unk"
        raise ContractError(field="tokens.injection_char", found=found, expected=expected)
    return ids[0]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Ids of a text, with or without the tokens that the tokenizer adds of its own accord."""
    return list(tokenizer.encode(text, add_special_tokens=special))


def _template(meta: NlaMeta, role: str) -> str:
    template = getattr(meta.prompt_templates, role)
    if template is None:
        raise ContractError(
            field=f"prompt_templates.{role}", found="nothing", expected="a template to render"
        )
    return template


def _cut_chat(
    tokenizer: PreTrainedTokenizerBase, template: str, injection_char: str, marker_id: int
) -> PromptParts:
    if not getattr(tokenizer, "chat_template", None):
        raise ContractError(
            field="tokenizer.chat_template", found="nothing", expected="a chat template"
        )
    message = {"role": "user", "content": template.replace(AV_SLOT, injection_char)}
    ids: Any = tokenizer.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return _cut_at(list(ids), marker_id)


def _cut_at(ids: list[int], marker_id: int) -> PromptParts:
    places = [index for index, token_id in enumerate(ids) if token_id == marker_id]
    if len(places) != 1:
        raise ContractError(
            field="prompt_templates.av",
            found=f"{len(places)} slots (token {marker_id}) in the rendered prompt",
            expected="exactly one slot",
        )
    prefix, suffix = ids[: places[0]], ids[places[0] + 1 :]
    if not prefix or not suffix:
        found = f"the slot at position {places[0]} of {len(ids)}"
        expected = "a slot with a token on either side"
        raise ContractError(field="prompt_templates.av", found=found, expected=expected)
    return PromptParts(prefix, suffix)


def _cut_raw(tokenizer: PreTrainedTokenizerBase, template: str) -> PromptParts:
    before, _, after = template.partition(AR_SLOT)
    leading, trailing = _added_tokens(tokenizer)
    return PromptParts(
        leading + encode(tokenizer, before, special=False),
        encode(tokenizer, after, special=False) + trailing,
    )


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    plain = encode(tokenizer, "a", special=False)
    full = encode(tokenizer, "a", special=True)
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    raise ContractError(
        field="tokenizer.post_processor",
        found=f"{full} with special tokens, {plain} without",
        expected="special tokens only before or after the text",
    )
