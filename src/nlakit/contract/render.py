"""Prompts as token ids, cut at the slot, the one part that changes.

Templates are filled by plain replacement: text from people may hold braces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from nlakit.contract.encoding import encode_ids
from nlakit.contract.schema import AR_SLOT, AV_SLOT, NlaMeta, Tokens
from nlakit.contract.templates import TemplateRefusal, render_chat
from nlakit.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENDINGS = ("x", "x.", "x!", "x)", 'x"', "x ")
"""Explanations whose ends a tokenizer may merge with what follows, each in its own way."""


class PromptParts(NamedTuple):
    """Ids before and after the slot; what fills the slot is in neither."""

    prefix_ids: list[int]
    suffix_ids: list[int]


@dataclass(frozen=True)
class ArPrompt:
    """The reconstructor's prompt, to be filled with an explanation.

    Attributes:
        leading_ids, trailing_ids: what the tokenizer puts around a text (BOS), and the template up
            to its last special token before the slot, and from its first one after it.
        before, after: the template's text between those and the slot.
    """

    tokenizer: PreTrainedTokenizerBase
    leading_ids: list[int]
    before: str
    after: str
    trailing_ids: list[int]

    def encode(self, explanation: str) -> list[int]:
        """The prompt's ids: those of the whole string, as every client of the method encodes it.

        A token may straddle the explanation's ends (`.</` is one in many vocabularies). What looks
        like a special token in the explanation is plain text.
        """
        text = f"{self.before}{explanation}{self.after}"
        return [*self.leading_ids, *_encode_plain(self.tokenizer, text), *self.trailing_ids]

    @property
    def prefix_ids(self) -> list[int]:
        """What prompts begin with, BOS included; the last id may be another where it merges."""
        return [*self.leading_ids, *_encode_plain(self.tokenizer, self.before)]


def render_av(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> PromptParts:
    """The verbalizer's prompt: one user turn through the chat template, cut at the marker.

    Raises:
        ContractError: no template, or not exactly one marker, or one at the prompt's edge.
    """
    template = _template(meta, "av")
    return _cut_chat(
        tokenizer, template, meta.tokens.injection_char, meta.tokens.injection_token_id
    )


def render_ar(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> ArPrompt:
    """The reconstructor's prompt, a raw string; the tokenizer's own special tokens (BOS) are added.

    Raises:
        ContractError: no template, or a tokenizer that adds tokens inside a text.
    """
    return _ar_prompt(tokenizer, _template(meta, "ar"))


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
        critic_suffix_ids=_common_tail(_ar_prompt(tokenizer, ar_template)) or None,
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
    return encode_ids(tokenizer, text, add_special_tokens=special)


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
    try:
        rendered = render_chat(tokenizer, [message], add_generation_prompt=True)
    except TemplateRefusal as error:
        found = f"one that refuses the AV's prompt: {error}"
        expected = "a chat template that renders one user turn"
        raise ContractError(
            field="tokenizer.chat_template", found=found, expected=expected
        ) from error
    return _cut_at(encode_ids(tokenizer, rendered), marker_id)


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


def _ar_prompt(tokenizer: PreTrainedTokenizerBase, template: str) -> ArPrompt:
    """Cut at special tokens of the template, where the tokenizer itself cuts before all else."""
    before, _, after = template.partition(AR_SLOT)
    added = tokenizer.added_tokens_decoder.values()
    special = [token.content for token in added if token.special]
    start = max((before.rfind(name) + len(name) for name in special if name in before), default=0)
    end = min((after.find(name) for name in special if name in after), default=len(after))
    leading, trailing = _added_tokens(tokenizer)
    return ArPrompt(
        tokenizer,
        leading + encode(tokenizer, before[:start], special=False),
        before[start:],
        after[:end],
        encode(tokenizer, after[end:], special=False) + trailing,
    )


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text in which nothing is a special token."""
    return encode_ids(tokenizer, text, plain=True)


def _common_tail(prompt: ArPrompt) -> tuple[int, ...]:
    """The last ids that prompts have whatever their explanation ends with.

    The first id after an explanation is left out, since some ending may merge with it.
    """
    after = [*_encode_plain(prompt.tokenizer, prompt.after), *prompt.trailing_ids][1:]
    rows: list[Sequence[int]] = [after, *(prompt.encode(ending) for ending in ENDINGS)]
    columns = zip(*(reversed(row) for row in rows), strict=False)
    alike = takewhile(lambda column: len(set(column)) == 1, columns)
    return tuple(column[0] for column in alike)[::-1]


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
